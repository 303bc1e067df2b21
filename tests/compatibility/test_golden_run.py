"""`fedrecon run` without an experiment gives the numbers that commit fbc829d gave.

The golden file is the `metrics.csv` of

    fedrecon run --set training.rounds=20

on a CPU, without its rows of seconds. It was tried with and without the flags of XLA that the tests set, and
with the instruction sets up to SSE 4.2 and up to AVX2: no number changed by more than 2e-7 of it, where
`measured.RELATIVE` is allowed. After a change that is meant to change these numbers, the same command makes
the file anew: it is the `metrics.csv` of the run folder after its rows of seconds are removed.

Whether two builds agree to the bit is told on one machine, with the same flags and the same number of cores.
Run the command above with both builds, with `--out A` and `--out B`, and then

    diff <(grep -v ,seconds, A/metrics.csv) <(grep -v ,seconds, B/metrics.csv)

prints nothing if they do, because `metrics.csv` has each value with all its digits.
"""

from pathlib import Path

from tests.compatibility import measured

GOLDEN = Path(__file__).with_name("data") / "default_20_rounds.csv"


def test_the_default_run_gives_the_golden_numbers(command_line):
    assert measured.fedrecon("run", "--set", "training.rounds=20", "--out", "golden") == 0
    there = measured.read_metrics(GOLDEN)
    assert sum(" train training examples loss" in name for name in there) == 20
    measured.assert_agree(measured.read_metrics(command_line / "golden" / "metrics.csv"), there)
