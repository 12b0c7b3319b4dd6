"""The displays of runs and sweeps, by what they print."""

import io
import re
import sys

from rowrnn.config import TrainConfig
from rowrnn.lab import display
from rowrnn.lab.sweep.stack import Tally


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_at_every_tenth_of_the_way(capsys):
    shown = display.ProgressDisplay(1000, done=250)
    for done in (260, 299, 300, 310, 555, 1000):
        shown.advance(done, f"fact {done}")
    shown.advance(1000, "fact at the end")
    shown.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [" 26%  fact 260", " 30%  fact 300", " 55%  fact 555",
                                "100%  fact at the end"]  # fmt: skip


def test_a_live_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = display.ProgressDisplay(4)
    for done in (1, 2):
        shown.advance(done, "one\u00b7fact")
    shown.close()
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sys.stderr.getvalue())
    assert "compiling" in said
    assert said.splitlines()[-1].split()[1:3] == ["50%", "one\u00b7fact"]


def test_nothing_to_do_is_no_error(capsys):
    shown = display.ProgressDisplay(0)
    shown.advance(0, "3/3 members")
    shown.close()
    assert capsys.readouterr().err == ""


def test_the_line_of_a_sweep_fits_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", Terminal())
    known = {"examples": 123_456, "train_s": 10.0, "estimate": "mean 0.9397 ± 0.0012"}
    shown = display.ProgressDisplay(4)
    shown.advance(2, Tally(shown, 128, 64, 12, **known).facts)
    shown.close()
    assert "mean 0.9397 ± 0.0012" in sys.stderr.getvalue()


def test_what_a_config_asks_for(capsys):
    # What has ended already shows no bar.
    for name, done in (("notebook", 0), ("none", 0), ("progress", 10)):
        shown = display.make_display(TrainConfig(display=name), 10, done)
        shown.advance(10, "fact")
        shown.close()
    assert capsys.readouterr() == ("", "")
