"""GGUF files: what is written reads back, other programs find in it what they look for, and damage is noticed."""

import hashlib
import random
import struct
import sys
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from gguf.constants import MODEL_ARCH, MODEL_TENSOR, MODEL_TENSORS, TENSOR_NAMES
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.data.originals import original_stories
from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.interop import gguf_file
from gpt_oss_stories.interop.gguf_file import read_gguf, write_gguf, write_modelfile
from gpt_oss_stories.interop.gguf_header import GgufError
from gpt_oss_stories.interop.gguf_layout import TENSOR_TYPES, token_texts
from gpt_oss_stories.model.transformer import StoryTransformer
from gpt_oss_stories.tokenization import build_story_vocabulary, count_tokens, harmony_vocabulary
from gpt_oss_stories.tokenization.vocabulary import PIECE_PATTERN

TEXTS = [
    "Once upon a time, Mia's fox couldn't find 12 or 1,234 berries.",
    "He said: \"I'LL come!\" and WE'VE\n\n  waited...\r\n\tZoë, naïve — café 🐢🐢 从前有一只乌龟",
    "a<|start|>b<|end|><|endoftext|>  trailing   ",
]

MODEL = {
    "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 64, "head_dim": 16, "intermediate_size": 32,
    "block_size": 256, "num_experts": 4, "experts_per_token": 2, "sliding_window": 16,
}  # fmt: skip
VARIANTS = {
    "plain": ({}, []),
    "tied": ({"tie_embeddings": True}, ["twice"]),
    "dense": ({"num_experts": 1, "experts_per_token": None}, ["router of zeros"]),
    "no sinks": ({"use_attention_sinks": False}, ["sinks of -1e+30"]),
    "no window": ({"sliding_window": 0}, ["256 tokens"]),
    "wide window": ({"sliding_window": 10**12}, []),
    "YaRN": ({"rope_scaling_factor": 32.0, "rope_original_context": 64}, ["rounds the cut-offs"]),
    "YaRN's betas": ({"rope_scaling_factor": 2.0, "rope_beta_fast": 16.0}, ["rounds the cut-offs", "as 1 and 32"]),
    "more tokens": ({"multi_token_predict": 3}, ["left out: the modules of multi-token prediction (34 tensors)"]),
    "defaults": ({"n_kv_head": None, "intermediate_size": None, "norm_eps": 1.2345e-6, "rope_theta": 12_345.678}, []),
}


@pytest.fixture(scope="module")
def vocabulary():
    stories = [story.text for story in original_stories()[:3]]
    return build_story_vocabulary(count_tokens(harmony_vocabulary(), [*TEXTS[:2], *stories]))


def make(vocabulary, **changes):
    """A configuration and random weights for it."""
    config = ModelConfig(**{**MODEL, "vocab_size": vocabulary.size, **changes})
    generator = torch.Generator().manual_seed(7)
    with torch.device("meta"):
        model = StoryTransformer(config)
    return config, {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


def write(path, config, vocabulary, weights, **options):
    return write_gguf(path, config, vocabulary, weights, **{"name": "stories", "provenance": {"steps": 9}, **options})


@pytest.fixture(scope="module")
def written(vocabulary, tmp_path_factory):
    """A small file of ours: its bytes, configuration and weights."""
    config, weights = make(vocabulary, n_layer=2)
    path = tmp_path_factory.mktemp("gguf") / "ours.gguf"
    write(path, config, vocabulary, weights, tensor_type="F32")
    return path.read_bytes(), config, weights


@pytest.fixture(scope="module")
def foreign(written):
    """The same file as another program would write it: no keys that this program knows, so no checksum."""
    return as_foreign(written[0])


def as_foreign(content):
    return content.replace(b"gpt_oss_stories.", b"another_program.")


# ---- Round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_reads_back_bit_for_bit(vocabulary, tmp_path, variant):
    changes, expected_notes = VARIANTS[variant]
    config, weights = make(vocabulary, **changes)
    notes = write(tmp_path / "model.gguf", config, vocabulary, weights, tensor_type="F32")
    assert len(notes) == len(expected_notes)
    assert all(part in note for part, note in zip(expected_notes, notes, strict=True))
    file = read_gguf(tmp_path / "model.gguf")
    assert file.config == config.replace(multi_token_predict=1)
    assert file.vocabulary.fingerprint == vocabulary.fingerprint
    assert file.provenance == {"steps": 9}
    assert file.notes == tuple(notes)
    got = dict(file.weights())
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("multi_token.")}
    assert got.keys() == kept.keys()
    for name, tensor in kept.items():
        assert torch.equal(got[name], tensor), name
        assert got[name].dtype == torch.float32
    model = StoryTransformer(file.config)
    model.load_state_dict(got)


def test_16_bits_read_back_as_rounded(vocabulary, tmp_path):
    config, weights = make(vocabulary)
    for kind, dtype in (("F16", torch.float16), ("BF16", torch.bfloat16)):
        write(tmp_path / "model.gguf", config, vocabulary, weights, tensor_type=kind)
        for name, got in read_gguf(tmp_path / "model.gguf").weights():
            single = got.dim() == 1 or name.endswith("_bias") or ".router." in name
            assert torch.equal(got, weights[name] if single else weights[name].to(dtype).float()), name


def blocks_of(name, tensor):
    """(blocks, 32) along the rows of the file, where experts' matrices are (experts, out, in)."""
    return (tensor.transpose(1, 2) if tensor.dim() == 3 else tensor).reshape(-1, 32)


def largest_error(kind, blocks):
    """What the format allows in each block: half a step, a whole one where the last step has no code, and the rounding
    of scale and offset to 16-bit floats."""
    size, spread = blocks.abs().amax(1), blocks.amax(1) - blocks.amin(1)
    half = 2.0**-11
    return {
        "Q8_0": size / 127 * 0.5 + size * half,
        "Q5_0": size / 16 + size * half,
        "Q4_0": size / 8 + size * half,
        "Q5_1": spread / 31 * 0.5 + (spread + size) * half,
        "Q4_1": spread / 15 * 0.5 + (spread + size) * half,
        "MXFP4": size / 4,
    }[kind] * 1.001


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4"])
def test_quantizations_err_no_more_than_they_must(vocabulary, tmp_path, kind):
    config, weights = make(vocabulary)
    weights["layers.0.experts.down_weight"][1] = 0.0
    weights["layers.0.experts.down_weight"][2] *= 1e-39  # its reciprocal scale is beyond float32
    write(tmp_path / "model.gguf", config, vocabulary, weights, tensor_type=kind)
    types = {tensor.name: tensor.dtype for tensor in read_gguf(tmp_path / "model.gguf").tensors}
    assert types["blk.2.ffn_down_exps.weight"] == types["blk.0.ffn_gate_exps.weight"] == kind
    attention = "Q8_0" if kind == "MXFP4" else kind
    assert types["blk.1.attn_k.weight"] == attention
    for name, got in read_gguf(tmp_path / "model.gguf").weights():
        if got.dim() == 1 or name.endswith("_bias") or ".router." in name:
            assert torch.equal(got, weights[name]), name
            continue
        used = "Q8_0" if name.endswith("bedding.weight") else kind if ".experts." in name else attention
        want = blocks_of(name, weights[name])
        error = (blocks_of(name, got) - want).abs().amax(1)
        assert (error <= largest_error(used, want) + 1e-37).all(), name
        assert error.max() > 0, name


def test_rows_that_do_not_fit_blocks_become_16_bits(vocabulary, tmp_path):
    config, weights = make(vocabulary, intermediate_size=40)
    notes = write(tmp_path / "model.gguf", config, vocabulary, weights, tensor_type="Q8_0")
    assert notes == [
        "stored as F16, because their rows are no multiple of a block of 32 values: "
        "blk.0.ffn_down_exps.weight, blk.1.ffn_down_exps.weight, blk.2.ffn_down_exps.weight"
    ]
    file = read_gguf(tmp_path / "model.gguf")
    assert {t.dtype for t in file.tensors if "ffn_down_exps.weight" in t.name} == {"F16"}
    assert torch.equal(
        dict(file.weights())["layers.1.experts.down_weight"], weights["layers.1.experts.down_weight"].half().float()
    )


def test_pieces_make_the_same_file_as_wholes(vocabulary, tmp_path, monkeypatch, written):
    _, config, weights = written
    write(tmp_path / "whole.gguf", config, vocabulary, weights, tensor_type="Q4_1")
    monkeypatch.setattr(gguf_file, "CHUNK_VALUES", 300)
    write(tmp_path / "pieces.gguf", config, vocabulary, weights, tensor_type="Q4_1")
    assert (tmp_path / "pieces.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_the_whole_harmony_vocabulary(tmp_path, monkeypatch):
    harmony = harmony_vocabulary()
    # Finding all merges takes ten seconds; the reader does not ask for them.
    monkeypatch.setattr(gguf_file, "merges_of", lambda vocabulary: (["a b"], 0))
    config, weights = make(harmony, n_embd=8, n_head=1, n_kv_head=1, n_layer=1, head_dim=2)
    write(tmp_path / "model.gguf", config, harmony, weights)
    assert read_gguf(tmp_path / "model.gguf").vocabulary is harmony
    content = as_foreign((tmp_path / "model.gguf").read_bytes())
    (tmp_path / "model.gguf").write_bytes(content)
    assert read_gguf(tmp_path / "model.gguf").vocabulary is harmony
    spelled = struct.pack("<Q", 8) + "Ġfriend".encode()
    assert content.count(spelled) == 1
    (tmp_path / "model.gguf").write_bytes(content.replace(spelled, spelled[:-1] + b"t"))
    assert read_gguf(tmp_path / "model.gguf").vocabulary is None


# ---- What other programs find ----------------------------------------------------------------------------------------


def test_gguf_finds_the_tensors_of_its_own_table(tmp_path, written):
    content, config, weights = written
    (tmp_path / "model.gguf").write_bytes(content)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    with_bias = {
        *(MODEL_TENSOR.ATTN_Q, MODEL_TENSOR.ATTN_K, MODEL_TENSOR.ATTN_V, MODEL_TENSOR.ATTN_OUT),
        *(MODEL_TENSOR.FFN_GATE_INP, MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP, MODEL_TENSOR.FFN_DOWN_EXP),
    }
    expected = set()
    for tensor in MODEL_TENSORS[MODEL_ARCH.GPT_OSS]:
        for layer in range(config.n_layer):  # tensors that are no layer's have no place for the number
            name = TENSOR_NAMES[tensor].format(bid=layer)
            expected |= {f"{name}.weight"} | ({f"{name}.bias"} if tensor in with_bias else set())
    assert found.keys() == expected
    # GGUF's own order of axes: the innermost first.
    assert found["token_embd.weight"].shape.tolist() == [64, config.vocab_size]
    assert found["blk.1.attn_k.weight"].shape.tolist() == [64, 32]
    assert found["blk.1.attn_output.weight"].shape.tolist() == [64, 64]
    assert found["blk.1.attn_sinks.weight"].shape.tolist() == [4]
    assert found["blk.1.ffn_up_exps.weight"].shape.tolist() == [64, 32, 4]
    assert found["blk.1.ffn_up_exps.bias"].shape.tolist() == [32, 4]
    assert found["blk.1.ffn_down_exps.weight"].shape.tolist() == [32, 64, 4]
    qkv, gate_up = weights["layers.1.attention.qkv.weight"], weights["layers.1.experts.gate_up_weight"]
    down = weights["layers.1.experts.down_weight"]
    assert numpy.array_equal(found["blk.1.attn_v.weight"].data, qkv[96:])
    assert numpy.array_equal(found["blk.1.ffn_gate_exps.weight"].data[3, 5], gate_up[3, :, 10])
    assert numpy.array_equal(found["blk.1.ffn_up_exps.weight"].data[3, 5], gate_up[3, :, 11])
    assert numpy.array_equal(found["blk.1.ffn_down_exps.weight"].data[3, 5], down[3, :, 5])


def test_gguf_finds_the_settings_under_its_own_names(vocabulary, tmp_path):
    config, weights = make(vocabulary, n_layer=1, rope_scaling_factor=4.0, rope_original_context=64)
    write(tmp_path / "model.gguf", config, vocabulary, weights, tensor_type="BF16", chat_template="{{ messages }}")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    keys, llm, attention, rope = gguf.Keys, gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope
    ids = {name: vocabulary.special(name) for name in ("startoftext", "endoftext", "return", "call")}
    expected = {
        keys.General.ARCHITECTURE: "gpt-oss",
        keys.General.NAME: "stories",
        keys.General.FILE_TYPE: gguf.LlamaFileType.MOSTLY_BF16,
        llm.CONTEXT_LENGTH: 256,
        llm.EMBEDDING_LENGTH: 64,
        llm.BLOCK_COUNT: 1,
        llm.EXPERT_FEED_FORWARD_LENGTH: 32,
        llm.EXPERT_COUNT: 4,
        llm.EXPERT_USED_COUNT: 2,
        llm.VOCAB_SIZE: vocabulary.size,
        attention.HEAD_COUNT: 4,
        attention.HEAD_COUNT_KV: 2,
        attention.KEY_LENGTH: 16,
        attention.VALUE_LENGTH: 16,
        attention.SLIDING_WINDOW: 16,
        attention.LAYERNORM_RMS_EPS: pytest.approx(1e-5),
        rope.DIMENSION_COUNT: 16,
        rope.FREQ_BASE: 150_000.0,
        rope.SCALING_TYPE: "yarn",
        rope.SCALING_FACTOR: 4.0,
        rope.SCALING_ORIG_CTX_LEN: 64,
        keys.Tokenizer.MODEL: "gpt2",
        keys.Tokenizer.PRE: "gpt-4o",
        keys.Tokenizer.BOS_ID: ids["startoftext"],
        keys.Tokenizer.EOS_ID: ids["endoftext"],
        keys.Tokenizer.EOT_ID: ids["return"],
        keys.Tokenizer.ADD_BOS: True,
        keys.Tokenizer.ADD_EOS: False,
        keys.Tokenizer.CHAT_TEMPLATE: "{{ messages }}",
        "tokenizer.ggml.eos_token_ids": [ids["endoftext"], ids["return"], ids["call"]],
    }
    for key, value in expected.items():
        name = key.format(arch="gpt-oss")
        assert fields[name].contents() == value, name
    assert read_gguf(tmp_path / "model.gguf").metadata["gpt-oss.context_length"] == 256
    for window, stored in ((100, 100), (0, 256), (1000, 256)):  # none is one of the whole context
        config, weights = make(vocabulary, n_layer=1, sliding_window=window)
        write(tmp_path / "model.gguf", config, vocabulary, weights)
        assert read_gguf(tmp_path / "model.gguf").metadata["gpt-oss.attention.sliding_window"] == stored


def test_its_file_types_are_those_of_llama_cpp():
    names = {"F32": "ALL_F32", "MXFP4": "MOSTLY_MXFP4_MOE"}
    for kind, number in TENSOR_TYPES.items():
        assert number == gguf.LlamaFileType[names.get(kind, f"MOSTLY_{kind}")]


def test_the_tokenizer_in_the_file_cuts_texts_as_we_do(vocabulary, tmp_path, written):
    (tmp_path / "model.gguf").write_bytes(written[0])
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    tokens, types, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges"))
    assert len(tokens) == len(types) == len(set(tokens)) == vocabulary.size
    control = {token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL}
    assert control == {tokens[vocabulary.special(name)] for name in ("start", "end", "call", "return", "message")} | {
        "<|startoftext|>", "<|endoftext|>", "<|constrain|>", "<|channel|>"
    }  # fmt: skip
    ordinary = {token: id for id, token in enumerate(tokens[: vocabulary.ordinary_size])}
    other = Tokenizer(models.BPE(ordinary, [tuple(merge.split(" ")) for merge in merges]))
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECE_PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, False, False)]
    )
    other.decoder = decoders.ByteLevel()
    for text in [*TEXTS, *(story.text for story in original_stories()[:8])]:
        ids = vocabulary.encode(text)
        assert other.encode(text).ids == ids
        assert other.decode(ids) == text


def test_every_id_has_a_text_of_its_own():
    harmony = harmony_vocabulary()
    texts, types = token_texts(harmony)
    assert len(set(texts)) == len(texts) == len(types) == 201_088
    assert (texts[200_018], types[200_018]) == ("<|reserved_200018|>", gguf.TokenType.UNUSED)
    assert (texts[200_006], types[200_006]) == ("<|start|>", gguf.TokenType.CONTROL)
    assert (texts[220], types[220]) == ("Ġ", gguf.TokenType.NORMAL)
    assert types.count(gguf.TokenType.CONTROL) == 9


def test_files_of_other_programs(tmp_path, foreign, written):
    (tmp_path / "foreign.gguf").write_bytes(foreign)
    file = read_gguf(tmp_path / "foreign.gguf")
    assert file.config == written[1]
    assert file.config.norm_eps == 1e-5  # not its 32-bit neighbour
    assert file.vocabulary is None
    assert file.provenance == {}
    assert all(torch.equal(tensor, written[2][name]) for name, tensor in file.weights())


# ---- What cannot be written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"use_swiglu": False}, "without SwiGLU"),
        ({"use_rmsnorm": False}, "LayerNorm"),
        ({"swiglu_alpha": 1.5}, r"swiglu_alpha=1.5 \(only 1.702\)"),
        ({"swiglu_limit": 8.0}, r"swiglu_limit=8.0"),
        ({"rope_scaling_factor": 2.0, "rope_original_context": 2**40}, "too large"),
        ({"rope_theta": 1e39}, "too large"),
        ({"vocab_size": 999}, "the model 999"),
    ],
)
def test_architectures_that_have_no_place(vocabulary, tmp_path, changes, match):
    config, weights = make(vocabulary, **changes)
    with pytest.raises(GgufError, match=match) as caught:
        write(tmp_path / "model.gguf", config, vocabulary, weights)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (lambda w: w.pop("norm.weight"), "F16", "missing norm.weight"),
        (lambda w: w.update({"stranger": torch.zeros(1)}), "F16", "unknown stranger"),
        (lambda w: w.update({"norm.weight": torch.zeros(5)}), "F16", r"norm.weight has the shape \(5,\)"),
        (lambda w: w.update({"layers.1.attention.qkv.weight": torch.zeros(9, 64)}), "F16", r"qkv.weight .* \(9, 64\)"),
        (lambda w: w.update({"layers.1.experts.down_weight": torch.zeros(9)}), "F16", r"down_weight .* \(9,\)"),
        (lambda w: w["embedding.weight"].__setitem__((3, 3), 70_000.0), "F16", "token_embd.weight .* 70000"),
        (lambda w: w["embedding.weight"].__setitem__((3, 3), float("nan")), "F32", "token_embd.weight .* nan"),
        (lambda w: w["layers.2.attention.sinks"].__setitem__(0, float("inf")), "BF16", "attn_sinks.weight .* inf"),
        (lambda w: None, "Q6_K", "'Q6_K' is not one of F32, F16"),
    ],
)
def test_weights_that_do_not_fit_leave_the_old_file(vocabulary, tmp_path, change, kind, match):
    config, weights = make(vocabulary)
    change(weights)
    (tmp_path / "model.gguf").write_text("old")
    with pytest.raises(GgufError, match=match):
        write(tmp_path / "model.gguf", config, vocabulary, weights, tensor_type=kind)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_bfloat16_and_float32_hold_what_16_bit_floats_cannot(vocabulary, tmp_path):
    config, weights = make(vocabulary)
    weights["embedding.weight"][3, 3] = 70_000.0
    for kind in ("F32", "BF16"):
        write(tmp_path / "model.gguf", config, vocabulary, weights, tensor_type=kind)
        got = dict(read_gguf(tmp_path / "model.gguf").weights())["embedding.weight"][3, 3]
        assert got.item() == pytest.approx(70_000, rel=2**-8)


def test_without_the_package_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(StoryError, match=r"gpt-oss-stories\[interop\]"):
        read_gguf(tmp_path / "model.gguf")


# ---- Damage ----------------------------------------------------------------------------------------------------------


def refused(path, content, match=""):
    """Reading ends in one line, soon, and without much memory."""
    path.write_bytes(content)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(GgufError, match=match) as caught:
            read_gguf(path)
        seconds, memory = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert seconds < 1
    assert memory < 16 << 20


def data_start(content, path):
    path.write_bytes(content)
    return gguf.GGUFReader(path).data_offset


def test_every_changed_bit_of_the_header_is_noticed(tmp_path, written):
    content = written[0]
    end = data_start(content, tmp_path / "model.gguf")
    rng = random.Random(1)
    # Lengths, counts and the checksum's own key are in the first kilobyte: look there more closely.
    for place in [*range(0, 140, 3), *(rng.randrange(end) for _ in range(60)), end - 1]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        (tmp_path / "model.gguf").write_bytes(damaged)
        with pytest.raises(GgufError) as caught:
            read_gguf(tmp_path / "model.gguf")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["written", "foreign"])
def test_files_that_were_cut_short(tmp_path, request, which):
    value = request.getfixturevalue(which)
    content = value if isinstance(value, bytes) else value[0]
    end = data_start(content, tmp_path / "model.gguf")
    for size in (0, 3, 4, 11, 23, 24, 30, 100, 1000, end // 2, end - 40, end - 1, end, end + 100, len(content) - 1):
        refused(tmp_path / "model.gguf", content[:size], "cut short|not a GGUF file|claims")


def key_place(content, key):
    """Where the kind of a key's value stands."""
    name = struct.pack("<Q", len(key)) + key.encode()
    assert content.count(name) == 1
    return content.index(name) + len(name)


def tensor_place(content, name):
    """Where the number of a tensor's dimensions stands."""
    return key_place(content, name)


def put(content, place, code, *values):
    packed = struct.pack(code, *values)
    return content[:place] + packed + content[place + len(packed) :]


def mutations(content):
    """Name, changed file and what the error says, for one file of another program (no checksum protects it)."""
    alignment = struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<I", 4)
    first_key = 24
    one_more = put(content, 16, "<Q", struct.unpack_from("<Q", content, 16)[0] + 1)
    with_alignment = one_more[:first_key] + alignment + struct.pack("<I", 0) + one_more[first_key:]
    key = lambda name: key_place(content, name)  # noqa: E731
    sinks, up = tensor_place(content, "blk.1.attn_sinks.weight"), tensor_place(content, "blk.0.ffn_up_exps.weight")
    tokens = key("tokenizer.ggml.tokens")
    yield "magic", b"GGML" + content[4:], "not a GGUF file"
    yield "version", put(content, 4, "<I", 1), "version 1"
    yield "big-endian", put(content, 4, ">I", 3), "version"
    yield "tensor count", put(content, 8, "<Q", 2**63), "claims to have"
    yield "a tensor too many", put(content, 8, "<Q", struct.unpack_from("<Q", content, 8)[0] + 1), "name|cut|claims"
    yield "a tensor too few", put(content, 8, "<Q", struct.unpack_from("<Q", content, 8)[0] - 1), "cut|fit|begins"
    yield "key count", put(content, 16, "<Q", 4000), "damaged"
    yield "more keys than bytes", put(content, 16, "<Q", 2**40), "claims to have"
    yield "length of a key", put(content, first_key, "<Q", 2**62), "claims to have"
    yield "length of a text", put(content, key("general.name") + 4, "<Q", 2**32), "claims to have"
    yield "kind of a value", put(content, key("general.name"), "<I", 77), "unknown kind 77"
    yield "truth value", put(content, key("tokenizer.ggml.add_bos_token") + 4, "<B", 2), "neither true nor false"
    yield "length of a list", put(content, tokens + 8, "<Q", 2**61), "claims to have"
    yield "a list to the end", put(content, tokens + 8, "<Q", 4_000_000), "claims to have"
    yield "a list of lists", put(content, tokens + 4, "<I", 9), "unknown kind 9"
    yield "length in a list", put(content, tokens + 16, "<Q", 2**63 + 5), "cut short"
    yield "alignment 0", with_alignment, "power of two"
    place = first_key + len(alignment)
    yield "alignment 3", put(with_alignment, place, "<I", 3), "power of two"
    yield "alignment 2**31", put(with_alignment, place, "<I", 2**31), "power of two"
    yield "architecture", content.replace(b"gpt-oss", b"gemma-9", 1), "architecture is 'gemma-9'"
    yield "name of a key", content.replace(b"gpt-oss.block_count", b"gpt-oss.block_\xc3\xb6unt", 1), "plain name"
    yield (
        "a key twice",
        content.replace(b"general.file_type", b"gpt-oss.vocab_len", 1)
        .replace(b"gpt-oss.vocab_size", b"general.file_typeX", 1)
        .replace(b"gpt-oss.vocab_len", b"general.file_type", 1)
        .replace(struct.pack("<Q", 18) + b"general.file_typeX", struct.pack("<Q", 17) + b"general.file_type", 1),
        "twice",
    )
    yield "layers", put(content, key("gpt-oss.block_count") + 4, "<I", 1024), "1,024 layers, but has only 41 tensors"
    yield "a layer more", put(content, key("gpt-oss.block_count") + 4, "<I", 3), "missing blk.2.attn_norm.*14 more"
    yield "endless layers", put(content, key("gpt-oss.block_count") + 4, "<I", 2**31), "above 1024"
    yield "no layers", put(content, key("gpt-oss.block_count") + 4, "<I", 0), "below 1"
    yield "kind of a setting", put(content, key("gpt-oss.block_count"), "<I", 6), "expected a whole number"
    yield "width", put(content, key("gpt-oss.embedding_length") + 4, "<I", 128), "expected"
    yield "not a number", put(content, key("gpt-oss.rope.freq_base") + 4, "<f", float("nan")), "finite"
    yield "head width", put(content, key("gpt-oss.attention.value_length") + 4, "<I", 8), "value_length is 8"
    yield "dimensions", put(content, sinks, "<I", 2**31), "claims to have"
    yield "size", put(content, sinks + 4, "<Q", 2**62), "cut short"
    yield "size that overflows", put(content, up + 4, "<QQQ", 2**32, 2**31, 2), "cut short"
    yield "size 0", put(content, sinks + 4, "<Q", 0), "shape"
    yield "swapped shape", put(content, up + 4, "<QQQ", 32, 64, 4), r"ffn_up_exps.weight is \(4, 64, 32\), expected"
    yield "type", put(content, sinks + 12, "<I", 200), "unknown type 200"
    yield "undecodable type", put(content, sinks + 12, "<I", 24), "cannot decode|begins"
    yield "offset", put(content, sinks + 16, "<Q", struct.unpack_from("<Q", content, sinks + 16)[0] + 32), "begins at"
    yield "offset outside", put(content, sinks + 16, "<Q", 2**63), "begins at"
    yield "name of a tensor", content.replace(b"blk.1.attn_sinks.weight", b"blk.1.attn_stinks.weigh", 1), "missing.*unk"
    yield "a tensor twice", content.replace(b"blk.1.attn_sinks.weight", b"blk.0.attn_sinks.weight", 1), "twice"


def test_damage_that_no_checksum_finds(tmp_path, foreign):
    names = []
    for name, damaged, match in mutations(foreign):
        assert damaged != foreign, name
        refused(tmp_path / "model.gguf", damaged, match)
        names.append(name)
    assert len(names) == len(set(names)) >= 20


def test_random_damage_never_ends_otherwise(tmp_path, foreign):
    """Without a checksum a changed text or number may pass; whatever else happens is one line, soon."""
    end = data_start(foreign, tmp_path / "model.gguf")
    rng = random.Random(5)
    for _ in range(100):
        damaged = bytearray(foreign)
        for _ in range(rng.choice((1, 1, 8))):
            damaged[rng.choice((rng.randrange(end), rng.randrange(1500)))] = rng.choice((0, 255, rng.randrange(256)))
        (tmp_path / "model.gguf").write_bytes(damaged)
        start, message = time.perf_counter(), ""
        try:
            read_gguf(tmp_path / "model.gguf")
        except GgufError as error:
            message = str(error)
        assert "\n" not in message
        assert time.perf_counter() - start < 1


def rehashed(content):
    """The file with a right checksum, as somebody who means harm would make it."""
    key = b"gpt_oss_stories.header_sha256"
    place = content.index(key) + len(key) + 12
    content = content[:place] + b"0" * 64 + content[place + 64 :]
    digest = hashlib.sha256(content[: header_end(content)]).hexdigest().encode()
    return content[:place] + digest + content[place + 64 :]


def header_end(content):
    """Where the tensors' data begins: behind the last tensor's type and offset, aligned."""
    place = content.rindex(b"ffn_down_exps.bias") + len(b"ffn_down_exps.bias") + 4 + 2 * 8 + 4 + 8
    return place + -place % 32


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [
        (b'"n_head": 4', b'"n_head": 8', "head_count is 4, but the configuration beside it says 8"),
        (b'"n_layer": 2', b'"n_layer":99', "block_count"),
        (b'"n_layer": 2', b'"n_lairs": 2', "unknown settings"),
        (b'"n_layer": 2', b'"n_layer"  2', "not JSON"),
        (b'"use_swiglu": true', b'"use_swiglu":false', "SwiGLU"),
        (b'{"steps": 9}', b'["steps", 9]', "provenance is missing, or not a dict"),
        (b"gpt_oss_stories.version\x04\0\0\0\x01", b"gpt_oss_stories.version\x04\0\0\0\x02", "version 2"),
        ("Ġ".encode(), "Ԡ".encode(), "not spelled as in GPT-2"),
        (
            b"gpt_oss_stories.vocabulary.kind\x08\0\0\0\x05",
            b"gpt_oss_stories.vocabulary.kid\0\x08\0\0\x05",
            "plain name",
        ),
        (b"\x05\0\0\0\0\0\0\0story", b"\x05\0\0\0\0\0\0\0stork", "unknown kind 'stork'"),
    ],
)
def test_a_right_checksum_does_not_help(tmp_path, written, before, after, match):
    content = written[0]
    assert before in content
    refused(tmp_path / "model.gguf", rehashed(content.replace(before, after, 1)), match)


def test_the_checksum_is_what_it_says(tmp_path, written):
    assert rehashed(written[0]) == written[0]
    renamed = written[0].replace(b"\x07\0\0\0\0\0\0\0stories", b"\x07\0\0\0\0\0\0\0storied", 1)
    refused(tmp_path / "model.gguf", renamed, "header was changed after it was written.*llama-quantize")


def test_a_file_that_changes_while_it_is_read(tmp_path, written):
    path = tmp_path / "model.gguf"
    path.write_bytes(written[0])
    file = read_gguf(path)
    path.write_bytes(written[0][:-100])
    with pytest.raises(GgufError, match="became shorter"):
        list(file.weights())
    path.unlink()
    with pytest.raises(GgufError, match="No such file"):
        list(file.weights())


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(GgufError, match="no such file"):
            read_gguf(path)


def test_parts_of_a_split_model_are_refused(tmp_path, foreign):
    split = struct.pack("<Q", 11) + b"split.count" + struct.pack("<IH", 2, 3)
    count = struct.unpack_from("<Q", foreign, 16)[0]
    content = put(foreign, 16, "<Q", count + 1)[:24] + split + foreign[24:]
    end = header_end(foreign)
    # The header grew: the data moves to the next multiple of the alignment.
    grown = content[: end + len(split)] + bytes(-len(split) % 32) + content[end + len(split) :]
    refused(tmp_path / "model.gguf", grown, "llama-gguf-split --merge")


# ---- Ollama ----------------------------------------------------------------------------------------------------------


def test_the_modelfile_names_the_model_and_its_ends(tmp_path):
    write_modelfile(tmp_path / "Modelfile", "stories-F16.gguf", temperature=0.7, num_ctx=512)
    lines = (tmp_path / "Modelfile").read_text().splitlines()
    assert "FROM ./stories-F16.gguf" in lines
    assert 'TEMPLATE """{{ .Prompt }}"""' in lines
    assert "PARAMETER temperature 0.7" in lines
    assert "PARAMETER num_ctx 512" in lines
    assert 'PARAMETER stop "<|endoftext|>"' in lines
    instructions = {line.split()[0] for line in lines if not line.startswith("#")}
    assert instructions == {"FROM", "TEMPLATE", "PARAMETER"}
    for name in ("../stories.gguf", "a\nFROM b", "/tmp/x.gguf"):
        with pytest.raises(GgufError, match="not the name of a file"):
            write_modelfile(Path(tmp_path / "Modelfile"), name, num_ctx=512)
