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


def test_without_estimates_there_are_no_cycles():
    assert aot.step_of(PROGRAM.replace("estimated_cycles", "other")).cycles is None


def test_a_target_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match=r"'h10': no such device; did you mean h100\?"):
        bench.run("aot", targets=("h10",))


def test_a_target_is_for_aot_alone():
    with pytest.raises(ConfigError, match="only the suite aot"):
        bench.run("lstm", targets=("h100",))
