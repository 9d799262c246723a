"""Models that go out and come back, and what `transformers` makes of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.interop.checkpoints import open_checkpoint
from gpt_oss_stories.interop.export import expanded, export_gguf, export_huggingface, export_openai
from gpt_oss_stories.interop.importing import import_checkpoint
from gpt_oss_stories.interop.loading import load_model
from gpt_oss_stories.model.model_file import save_model
from gpt_oss_stories.tokenization import harmony_vocabulary, story_prompt
from support.small_models import PROVENANCE, TEXTS, saved, small_config, small_model

EXPORTERS = {"huggingface": export_huggingface, "openai": export_openai, "gguf": export_gguf}
FLOAT32 = {"huggingface": {"dtype": "float32"}, "openai": {"dtype": "float32"}, "gguf": {"tensor_type": "F32"}}
VARIANTS = {
    "as it is": {},
    "tied": {"tie_embeddings": True},
    "dense": {"num_experts": 1},
    "no sinks": {"use_attention_sinks": False},
    "no windows": {"sliding_window": 0},
    "stretched": {"rope_scaling_factor": 32.0, "rope_original_context": 64, "block_size": 2048},
    "odd": {"head_dim": 6, "n_embd": 40, "intermediate_size": 24, "num_experts": 3, "n_head": 3, "n_kv_head": 1},
    "two tokens": {"multi_token_predict": 2},
}


def tokens_of(config, length=40):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, config.vocab_size, (2, length), generator=generator)


def in_transformers(directory: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()


@pytest.mark.parametrize("format", EXPORTERS)
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_round_trip_in_float32_is_exact(format, changes, tmp_path, story_vocabulary):
    config = small_config(story_vocabulary, **changes)
    before = open_checkpoint(saved(tmp_path / "model.pt", config, story_vocabulary))
    EXPORTERS[format](before, tmp_path / "out", **FLOAT32[format])
    after = open_checkpoint(tmp_path / "out")
    assert after.format == format
    assert after.vocabulary.fingerprint == story_vocabulary.fingerprint
    assert after.provenance == PROVENANCE
    theirs = dict(after.weights())
    for name, tensor in before.weights():
        if not name.startswith("multi_token."):
            assert torch.equal(theirs[name], tensor), name
    network = after.build().eval()
    tokens = tokens_of(config)
    assert torch.equal(network.logits(tokens), before.build().eval().logits(tokens))


@pytest.mark.parametrize("format", ["huggingface", "openai"])
def test_bfloat16_is_exact_up_to_its_rounding(format, tmp_path, story_vocabulary):
    before = open_checkpoint(saved(tmp_path / "model.pt", small_config(story_vocabulary), story_vocabulary))
    EXPORTERS[format](before, tmp_path / "out", dtype="bfloat16")
    theirs = dict(open_checkpoint(tmp_path / "out").weights())
    for name, tensor in before.weights():
        assert theirs[name].dtype == torch.bfloat16
        assert torch.equal(theirs[name], tensor.to(torch.bfloat16)), name


def test_experts_in_mxfp4_with_the_error_that_is_told(tmp_path, story_vocabulary):
    before = open_checkpoint(saved(tmp_path / "model.pt", small_config(story_vocabulary), story_vocabulary))
    done = export_openai(before, tmp_path / "out", dtype="float32", mxfp4=True)
    after = open_checkpoint(tmp_path / "out")
    assert {tensor.dtype for tensor in after.tensors} == {"uint8", "float32"}
    theirs, squares, wrong = dict(after.weights()), 0.0, 0.0
    for name, tensor in before.weights():
        if name.endswith(("gate_up_weight", "down_weight")):
            squares += float(tensor.double().square().sum())
            wrong += float((theirs[name] - tensor).double().square().sum())
        else:
            assert torch.equal(theirs[name], tensor), name
    relative = 100 * (wrong / squares) ** 0.5
    assert 5 < relative < 15  # four bits
    [note] = [note for note in done.notes if "MXFP4" in note]
    assert f"{relative:.2f}%" in note
    assert list(after.notes) == list(done.notes)


TRANSFORMERS_CASES = {
    "story vocabulary": ("story", {}),
    "tied tables": ("story", {"tie_embeddings": True}),
    "no sinks": ("story", {"use_attention_sinks": False}),
    "dense": ("story", {"num_experts": 1}),
    "no windows": ("story", {"sliding_window": 0}),
    "YaRN factor 32, window below the prompt": (
        "story",
        {"rope_scaling_factor": 32.0, "rope_original_context": 4096, "block_size": 131072, "n_layer": 4},
    ),
    "YaRN from a short context": (
        "story",
        {"rope_scaling_factor": 32.0, "rope_original_context": 64, "block_size": 2048, "n_layer": 4},
    ),
    "full vocabulary": ("harmony", {"n_embd": 16}),
}


@pytest.mark.parametrize("case", TRANSFORMERS_CASES.values(), ids=TRANSFORMERS_CASES)
def test_transformers_gives_our_logits_and_our_greedy_story(case, tmp_path, story_vocabulary):
    kind, changes = case
    vocabulary = story_vocabulary if kind == "story" else harmony_vocabulary()
    path = saved(tmp_path / "model.pt", small_config(vocabulary, **changes), vocabulary)
    ours = load_model(path)
    export_huggingface(open_checkpoint(path), tmp_path / "out")
    theirs = in_transformers(tmp_path / "out")
    tokens = tokens_of(ours.config)
    with torch.inference_mode():
        difference = (theirs(tokens).logits - ours.logits(tokens)).abs().amax()
    assert difference < 1e-4, f"largest difference {difference:.1e}"
    prompt = story_prompt(vocabulary, TEXTS[0])
    assert len(prompt) > ours.config.sliding_window
    wanted = ours.generate_tokens(prompt, 40)
    assert len(set(wanted[len(prompt) :])) > 3
    stops = theirs.generation_config.eos_token_id
    got = theirs.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, repetition_penalty=1.0)
    assert got[0].tolist() == wanted
    assert vocabulary.special("endoftext") in stops


def test_transformers_tokenizer_begins_a_story_as_we_do(tmp_path, story_vocabulary):
    from transformers import AutoTokenizer

    path = saved(tmp_path / "model.pt", small_config(story_vocabulary), story_vocabulary)
    export_huggingface(open_checkpoint(path), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == story_prompt(story_vocabulary, text)


def test_large_models_are_split_into_files_that_transformers_finds(tmp_path, story_vocabulary):
    path = saved(tmp_path / "model.pt", small_config(story_vocabulary), story_vocabulary)
    done = export_huggingface(open_checkpoint(path), tmp_path / "out", max_shard_bytes=50_000)
    shards = [file for file in done.files if file.suffix == ".safetensors"]
    assert len(shards) > 3
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    for shard in shards:
        tensors = load_file(shard)
        assert all(index["weight_map"][name] == shard.name for name in tensors)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 50_000
    tokens = tokens_of(load_model(path).config)
    with torch.inference_mode():
        difference = (in_transformers(tmp_path / "out")(tokens).logits - load_model(path).logits(tokens)).abs()
    assert difference.amax() < 1e-4
    assert torch.equal(load_model(tmp_path / "out").logits(tokens), load_model(path).logits(tokens))


def test_what_is_left_out_is_told(tmp_path, story_vocabulary):
    changes = {"multi_token_predict": 3, "num_experts": 1, "use_attention_sinks": False}
    path = saved(tmp_path / "model.pt", small_config(story_vocabulary, **changes), story_vocabulary)
    for format, export in EXPORTERS.items():
        told = " | ".join(export(open_checkpoint(path), tmp_path / format).notes)
        assert "multi-token prediction" in told, format
        assert "sinks" in told
        assert "dense" in told or "router" in told


@pytest.mark.parametrize("format", EXPORTERS)
@pytest.mark.parametrize("changes", [{"use_swiglu": False}, {"use_rmsnorm": False}], ids=str)
def test_models_that_are_not_gpt_oss_are_refused(format, changes, tmp_path, story_vocabulary):
    path = saved(tmp_path / "model.pt", small_config(story_vocabulary, **changes), story_vocabulary)
    with pytest.raises(StoryError, match="cannot") as caught:
        EXPORTERS[format](open_checkpoint(path), tmp_path / "out")
    assert next(iter(changes)) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [path]


def test_nothing_that_stands_there_is_replaced_unless_asked(tmp_path, story_vocabulary):
    path = saved(tmp_path / "model.pt", small_config(story_vocabulary), story_vocabulary)
    source, out = open_checkpoint(path), tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(StoryError, match="exists already"):
            export_huggingface(source, out, overwrite=overwrite)
    assert (out / "diary.txt").read_text() == "mine"
    (out / "diary.txt").unlink()
    export_huggingface(source, out)
    with pytest.raises(StoryError, match="exists already"):
        export_huggingface(source, out)
    export_huggingface(source, out, dtype="bfloat16", overwrite=True)
    assert {tensor.dtype for tensor in open_checkpoint(out).tensors} == {"bfloat16"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.pt", "out"]


@pytest.mark.parametrize("tied", [False, True])
def test_expanded_to_the_full_vocabulary_it_tells_the_same_story(tied, tmp_path, story_vocabulary):
    config = small_config(story_vocabulary, tie_embeddings=tied)
    path = saved(tmp_path / "model.pt", config, story_vocabulary)
    before = load_model(path)
    larger = expanded(open_checkpoint(path))
    known = story_vocabulary.harmony_ids
    assert sorted([*known, *larger.unknown_tokens]) == list(range(201_088))
    assert "201,088" in larger.notes[0]
    export_huggingface(larger.source, tmp_path / "out", never_told=larger.unknown_tokens)
    after = in_transformers(tmp_path / "out")
    assert after.config.vocab_size == 201_088
    rows = torch.tensor(known)
    prompt = story_prompt(story_vocabulary, TEXTS[0])
    theirs = story_prompt(harmony_vocabulary(), TEXTS[0])
    assert rows[prompt].tolist() == theirs
    with torch.inference_mode():
        logits = after(torch.tensor([theirs])).logits
    torch.testing.assert_close(logits[..., rows], before.logits(torch.tensor([prompt])), rtol=0, atol=1e-4)
    told = after.generate(torch.tensor([theirs]), max_new_tokens=12, do_sample=False)
    assert told[0].tolist() == rows[before.generate_tokens(prompt, 12)].tolist()
    with pytest.raises(StoryError, match="harmony vocabulary already"):
        expanded(open_checkpoint(tmp_path / "out"))


def test_unknown_tokens_are_kept_rare_and_how_rare_is_told(tmp_path, story_vocabulary):
    """A model whose hidden states have a direction in common, as those of trained ones do to some degree."""
    model = small_model(small_config(story_vocabulary))
    with torch.no_grad():
        model.layers[-1].experts.down_bias[:, 0] = 60.0
    save_model(tmp_path / "model.pt", model, story_vocabulary, {})
    larger = expanded(open_checkpoint(tmp_path / "model.pt"))
    assert float(re.search(r"at ([\d.]+)% of places", larger.notes[0]).group(1)) < 2
    prompt = torch.tensor([story_prompt(harmony_vocabulary(), text)[:12] for text in TEXTS])
    probability = larger.source.build().eval().logits(prompt).softmax(-1)
    assert probability[..., torch.tensor(larger.unknown_tokens)].sum(-1).median() < 0.001


@pytest.mark.parametrize("format", EXPORTERS)
def test_import_makes_a_model_file_with_the_same_logits(format, tmp_path, story_vocabulary):
    config = small_config(story_vocabulary)
    path = saved(tmp_path / "model.pt", config, story_vocabulary)
    EXPORTERS[format](open_checkpoint(path), tmp_path / "out", **FLOAT32[format])
    notes = import_checkpoint(open_checkpoint(tmp_path / "out"), tmp_path / "back.pt")
    assert notes == []
    back = open_checkpoint(tmp_path / "back.pt")
    assert back.provenance == {**PROVENANCE, "imported_from": {"path": back.provenance["imported_from"]["path"],
                                                               "format": format}}  # fmt: skip
    tokens = tokens_of(config)
    assert torch.equal(back.build().eval().logits(tokens), load_model(path).logits(tokens))
    with pytest.raises(StoryError, match="exists already"):
        import_checkpoint(open_checkpoint(tmp_path / "out"), tmp_path / "back.pt")


def test_import_moves_a_model_to_a_smaller_vocabulary_without_changing_its_stories(tmp_path, story_vocabulary):
    harmony = harmony_vocabulary()
    path = saved(tmp_path / "model.pt", small_config(harmony, n_embd=16), harmony)
    import_checkpoint(open_checkpoint(path), tmp_path / "story.pt", vocabulary=story_vocabulary)
    large, small = load_model(path), load_model(tmp_path / "story.pt")
    assert small.config.vocab_size == story_vocabulary.size
    rows = torch.tensor(story_vocabulary.harmony_ids)
    tokens = tokens_of(small.config)
    torch.testing.assert_close(small.logits(tokens), large.logits(rows[tokens])[..., rows], rtol=0, atol=1e-5)


def test_a_tokenizer_without_our_description_still_gives_the_vocabulary(tmp_path, story_vocabulary):
    """What is left when somebody trains an exported model further and saves it with `transformers`."""
    from transformers import AutoTokenizer

    path = saved(tmp_path / "model.pt", small_config(story_vocabulary), story_vocabulary)
    export_huggingface(open_checkpoint(path), tmp_path / "out")
    in_transformers(tmp_path / "out").save_pretrained(tmp_path / "again")
    assert open_checkpoint(tmp_path / "again").vocabulary is None
    AutoTokenizer.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    again = open_checkpoint(tmp_path / "again")
    assert again.vocabulary.fingerprint == story_vocabulary.fingerprint
    tokens = tokens_of(again.config)
    assert torch.equal(again.build().eval().logits(tokens), load_model(path).logits(tokens))
