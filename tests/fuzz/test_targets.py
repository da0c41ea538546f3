"""Every target on its corpus, on its seeds, and on some inputs of a seed that is new each time outside CI."""

from __future__ import annotations

import pytest

from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import Target, TARGETS
from tests.support.seed import SEED

INPUTS = {"events": 150, "stream": 150, "manifests": 400, "configuration": 300, "respond": 1_500}


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_what_is_read(target: Target) -> None:
    for path in target.corpus():
        target.run(path.read_bytes())
    for one in target.seeds:
        target.run(one)
    mutator = Mutator(target.seeds, SEED)
    for number in range(INPUTS.get(target.name, 3_000)):
        data = mutator.next()
        try:
            target.run(data)
        except BaseException as exc:
            exc.add_note(f"python -m tests.fuzz {target.name} --seed {SEED}: input {number}: {data.hex()}")
            raise


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_the_same_seed_makes_the_same_inputs(target: Target) -> None:
    one, other = Mutator(target.seeds, 5), Mutator(target.seeds, 5)
    assert [one.next() for _ in range(50)] == [other.next() for _ in range(50)]
