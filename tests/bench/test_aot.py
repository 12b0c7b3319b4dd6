"""What `bench aot` reads out of a compiled program, and what it refuses."""

import pytest

from rowrnn import bench
from rowrnn.bench import aot
from rowrnn.errors import ConfigError

PROGRAM = """HloModule jit_chunk

%row (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %x = f32[8] get-tuple-element(%p), index=1
  %a = f32[8] fusion(%x), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"10"}
  ROOT %t = (s32[], f32[8]) tuple(%x, %a)
}

%step (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.1 = (s32[], f32[8]) parameter(0)
  %w = (s32[], f32[8]) while(%p.1), body=%row, backend_config={"known_trip_count":{"n":"28"}}
  %y = f32[8] get-tuple-element(%w), index=1
  %s = f32[8]{0} all-reduce(%y), to_apply=%add, backend_config={"estimated_cycles":"7"}
  ROOT %t.1 = (s32[], f32[8]) tuple(%y, %s)
}

ENTRY %main (q: f32[8]) -> f32[8] {
  %q = f32[8] parameter(0)
  %before = f32[8] copy(%q), backend_config={"estimated_cycles":"1000"}
  %v = (s32[], f32[8]) while(%q), body=%step, metadata={op_name="vmap(steps)/while"}
  ROOT %r = f32[8] get-tuple-element(%v), index=1
}
"""


def test_a_step_is_the_body_of_the_loop_over_steps():
    step = aot.step_of(PROGRAM)
    assert step.kernels == 28 + 1
    assert step.cycles == 28 * 10 + 7
    assert step.collectives == [{"op": "all-reduce", "bytes": 32}]


def test_what_a_gpu_starts_is_counted_once():
    text = "  %s = ((f32[8]{0}), f32[8]{0}) all-reduce-start(%y), channel_id=1, to_apply=%add"
    started = PROGRAM.replace(next(line for line in PROGRAM.splitlines() if "all-re" in line), text)
    assert aot.step_of(started).collectives == [{"op": "all-reduce", "bytes": 32}]


def test_without_estimates_there_are_no_cycles():
    assert aot.step_of(PROGRAM.replace("estimated_cycles", "other")).cycles is None


SEQUENCE = """\
000: kCommandBuffer [source | sink]
    001: kCopy         [source | sink] kCopy
003: kWhile        [prev=002 (1) | next=211 (1)]
condition:
    004: kCustomKernel [source | sink] loop_and_fusion grid: [1, 1, 1]
  body:
    005: kWhile        [source | next=008 (1)]
    condition:
        006: kCustomKernel [source | sink] loop_and_fusion grid: [1, 1, 1]
      body:
        000: kCommandBuffer [source | sink]
            007: kCustomKernel [source | sink] gemm grid: [128, 1, 1]
    000: kCommandBuffer [source | sink]
        008: kCustomKernel [source | sink] gemm grid: [128, 1, 1]
000: kCommandBuffer [source | sink]
    009: kCopy         [source | sink] kCopy
"""
NAMES = "".join(
    f'thunk_info {{\n profile_annotation: "{name}"\n thunk_id: {number}\n}}\n'
    for name, number in (("v", 3), ("w", 5), ("a", 7))
)


def test_command_buffers_are_those_of_a_step_as_often_as_they_are_started():
    assert aot.command_buffers(PROGRAM, SEQUENCE, NAMES) == 28 + 1
    assert aot.command_buffers(PROGRAM, "", "") is None


def test_a_target_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match=r"'h10': no such device; did you mean h100\?"):
        bench.run("aot", targets=("h10",))


def test_a_target_is_for_aot_alone():
    with pytest.raises(ConfigError, match="only the suite aot"):
        bench.run("lstm", targets=("h100",))
