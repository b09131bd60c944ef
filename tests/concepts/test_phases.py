"""Phases: the format of concept sets, scores by phases against naive loops, and opposed pairs."""

import json
from binascii import crc32
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from verbspace.concepts.concept_set import ConceptSet, ConceptSetError, concept_set_from_dict
from verbspace.concepts.lint import lint_concepts
from verbspace.concepts.opposed import opposed_pairs
from verbspace.concepts.space import ConceptSpace
from verbspace.models.clip_parts import clip_parts

CONTENT: dict[str, Any] = {
    "format": "verbspace-concepts/2",
    "name": "doors",
    "actions": [{"name": "opening a door"}, {"name": "closing a door"}, {"name": "knocking"}],
    "descriptions": [
        {"text": "A hand on a door handle.", "kind": "pose", "actions": ["opening a door", "closing a door"]},
        {"text": "A fist against the wood.", "kind": "pose", "actions": ["knocking"]},
        {"text": "The door is shut.", "kind": "objects", "phase": "start", "actions": ["opening a door"]},
        {"text": "The door stands wide open.", "kind": "objects", "phase": "end", "actions": ["opening a door"]},
        {"text": "The door stands wide open.", "kind": "objects", "phase": "start", "actions": ["closing a door"]},
        {"text": "The door is shut.", "kind": "objects", "phase": "end", "actions": ["closing a door"]},
        {"text": "The gap is a foot wide.", "kind": "objects", "phase": "middle", "actions": ["closing a door"]},
    ],
    "provenance": {"author": "the tests"},
}


def encode_text(texts: list[str]) -> torch.Tensor:
    """Return a deterministic vector of each text, not normalized."""
    return torch.stack([torch.randn(7, generator=torch.Generator().manual_seed(crc32(t.encode()))) for t in texts])


def without_phases() -> dict[str, Any]:
    return {**CONTENT, "descriptions": [each for each in CONTENT["descriptions"] if "phase" not in each]}


def build_space(content: dict[str, Any]) -> ConceptSpace:
    return ConceptSpace.build(concept_set_from_dict(content, "test"), encode_text, 0.1)


def random_parts(num_clips: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames, times = torch.randn(num_clips, 6, 7, generator=generator), torch.arange(6.0).expand(num_clips, -1)
    return frames, times, clip_parts(frames, times)


def test_the_former_format_is_read_and_keeps_its_hash(tmp_path: Path) -> None:
    content = without_phases()
    first = concept_set_from_dict({**content, "format": "verbspace-concepts/1"}, "first")
    second = concept_set_from_dict(content, "second")
    assert first == second
    assert first.hash == "46e7943e5c538cf9"  # as verbspace 0.1 computed it
    first.save(tmp_path / "saved.json")
    assert json.loads((tmp_path / "saved.json").read_text())["format"] == "verbspace-concepts/2"
    assert ConceptSet.load(tmp_path / "saved.json") == first


def test_a_phase_is_part_of_the_hash() -> None:
    plain, phased = without_phases(), json.loads(json.dumps(without_phases()))
    phased["descriptions"][1]["phase"] = "end"
    assert concept_set_from_dict(plain, "a").hash != concept_set_from_dict(phased, "b").hash


def test_a_text_may_be_in_several_phases_but_not_twice_in_one() -> None:
    concept_set_from_dict(CONTENT, "test")
    twice = {**CONTENT, "descriptions": [*CONTENT["descriptions"], CONTENT["descriptions"][2]]}
    with pytest.raises(
        ConceptSetError, match=r"descriptions\.7\.text: 'The door is shut\.' duplicates descriptions\.2"
    ):
        concept_set_from_dict(twice, "test")
    wrong = {**CONTENT, "descriptions": [{**CONTENT["descriptions"][2], "phase": "begin"}]}
    with pytest.raises(ConceptSetError, match=r"descriptions\.0\.phase.*'start', 'middle' or 'end'.*'begin'"):
        concept_set_from_dict(wrong, "test")


def test_scores_by_phases_equal_a_loop_over_descriptions() -> None:
    concepts, space = concept_set_from_dict(CONTENT, "test"), build_space(CONTENT)
    _, _, parts = random_parts()
    scores = space.action_scores(parts, "phases")
    part_of = {None: 0, "start": 1, "middle": 2, "end": 3}
    for clip, clip_scores in zip(parts.view(5, 4, 7), scores, strict=True):
        for name, score in zip(concepts.action_names, clip_scores, strict=True):
            cosines = [
                float(F.normalize(encode_text([each.text])[0].float(), dim=0) @ clip[part_of[each.phase]])
                for each in concepts.descriptions
                if name in each.actions
            ]
            assert float(score) == pytest.approx(sum(cosines) / len(cosines) / 0.1, abs=1e-4)


def test_without_phases_the_scores_are_those_of_the_descriptions() -> None:
    space = build_space(without_phases())
    frames, _, parts = random_parts()
    whole = F.normalize(frames.mean(1), dim=-1)
    assert torch.allclose(space.action_scores(parts, "phases"), space.action_scores(whole, "description"), atol=1e-5)


def test_a_reversed_clip_exchanges_the_scores_of_exactly_opposed_actions() -> None:
    content = {**CONTENT, "descriptions": CONTENT["descriptions"][:-1]}
    space = build_space(content)
    frames, times, parts = random_parts()
    scores = space.action_scores(parts, "phases")
    backward = space.action_scores(clip_parts(frames.flip(1), times), "phases")
    assert torch.allclose(scores[:, [1, 0, 2]], backward, atol=1e-4)
    assert not torch.allclose(scores[:, 0], scores[:, 1], atol=0.1)


def test_scores_by_phases_have_a_gradient() -> None:
    space = build_space(CONTENT).double()
    frames = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    times = torch.arange(4.0).expand(2, -1)
    weights = clip_parts(frames.detach(), times)  # float32, like embeddings
    parts = weights.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: space.action_scores(z, "phases"), (parts,))


def test_an_action_without_any_description_is_an_error() -> None:
    content = {**CONTENT, "descriptions": CONTENT["descriptions"][2:]}
    with pytest.raises(ValueError, match="no descriptions of knocking"):
        build_space(content).action_scores(random_parts()[2], "phases")
    whole = random_parts()[2][:, : build_space(CONTENT).categories.shape[1]]
    with pytest.raises(ValueError, match="scoring by phases needs clip parts of size"):
        build_space(CONTENT).action_scores(whole, "phases")
    with pytest.raises(ValueError, match="phases has no weights for whole clips"):
        build_space(CONTENT).classifier_weights("phases")


def test_subsets_and_unions_keep_phases() -> None:
    subset = concept_set_from_dict(CONTENT, "test").subset(["closing a door"])
    assert [each.phase for each in subset.descriptions] == [None, "start", "end", "middle"]
    union = ConceptSet.load("lss")
    phased = {(each.text, each.phase) for each in union.descriptions if each.phase}
    parts = [ConceptSet.load(name) for name in ("k400", "ucf101", "hmdb51")]
    assert phased == {(each.text, each.phase) for part in parts for each in part.descriptions if each.phase}


def test_opposed_pairs_are_found_in_the_phases() -> None:
    pairs = opposed_pairs(build_space(CONTENT))
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1)]
    assert pairs[0].cosine == pytest.approx(-1, abs=1e-5)
    assert opposed_pairs(build_space(without_phases())) == []


def test_lint_compares_start_and_end() -> None:
    def issues(*texts: tuple[str, str]) -> list[str]:
        phased = [{"text": text, "kind": "pose", "phase": phase, "actions": ["knocking"]} for phase, text in texts]
        content = {**CONTENT, "descriptions": [*CONTENT["descriptions"], *phased]}
        return lint_concepts(concept_set_from_dict(content, "test")).phases

    assert issues(("start", "A raised fist."), ("end", "An open hand.")) == []
    assert issues(("start", "A raised fist.")) == [
        "knocking: has sentences of a phase, but none of its end; add one, or remove the phases"
    ]
    assert issues(("start", "A raised fist."), ("end", "A fist that is raised.")) == [
        "knocking: its start and its end have the same words; say what is different"
    ]


@pytest.mark.parametrize("name", ["k400", "ucf101", "hmdb51", "playground"])
def test_bundled_phases_tell_the_start_from_the_end(name: str) -> None:
    concepts = ConceptSet.load(name)
    assert lint_concepts(concepts).phases == []
    assert sum(each.phase == "start" for each in concepts.descriptions) >= 9
