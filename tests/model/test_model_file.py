"""Model files: exact round trip also in a new process, and one clear refusal for everything else, damaging nothing."""

import pickle
import subprocess
import sys
import zipfile

import pytest
import torch

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.files import FileWriteError
from gpt_oss_stories.model import StoryTransformer
from gpt_oss_stories.model.model_file import ModelFileError, load_model_file, save_model
from gpt_oss_stories.tokenization import build_story_vocabulary, count_tokens, harmony_vocabulary

TEXT = 'Mia the mouse found a red button. "Is it yours?" she asked the owl.'


@pytest.fixture(scope="module")
def vocabulary():
    return build_story_vocabulary(count_tokens(harmony_vocabulary(), [TEXT]))


@pytest.fixture(scope="module")
def model(vocabulary):
    return StoryTransformer(
        ModelConfig(
            vocab_size=vocabulary.size, n_layer=2, n_head=2, n_kv_head=1, n_embd=16, head_dim=8, block_size=32,
            num_experts=2, sliding_window=4, multi_token_predict=2,
        ),
        seed=7,
    )  # fmt: skip


@pytest.fixture
def saved(tmp_path, model, vocabulary):
    path = tmp_path / "best_model.pt"
    save_model(path, model, vocabulary, {"step": 3, "validation_loss_nats": 1.25, "notes": ["a", None, True]})
    return path


def test_round_trip_keeps_everything(saved, model, vocabulary):
    file = load_model_file(saved)
    assert file.config == model.config
    assert file.vocabulary.fingerprint == vocabulary.fingerprint
    assert file.provenance == {"step": 3, "validation_loss_nats": 1.25, "notes": ["a", None, True]}
    assert file.vocabulary.decode(file.vocabulary.encode(TEXT)) == TEXT
    built = file.build()
    assert [n for n, _ in built.named_parameters()] == [n for n, _ in model.named_parameters()]
    for (name, ours), (_, theirs) in zip(model.named_parameters(), built.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert theirs.requires_grad, name


def test_logits_are_the_same_bits_in_a_new_process(saved, model, tmp_path):
    script = (
        "import sys, torch; from gpt_oss_stories import load_model; torch.manual_seed(99); "
        "torch.save(load_model(sys.argv[1]).logits(torch.arange(24).view(2, 12)), sys.argv[2])"
    )
    out = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-c", script, str(saved), str(out)], check=True)
    with torch.inference_mode():
        want = model.logits(torch.arange(24).view(2, 12))
    assert torch.equal(torch.load(out, weights_only=True), want)


def refused(path, match):
    with pytest.raises(ModelFileError, match=match) as caught:
        load_model_file(path)
    assert "\n" not in str(caught.value)


def test_missing(tmp_path):
    refused(tmp_path / "none.pt", "no model at .*none.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    refused(saved, "cut short|damaged")


class Evil:
    def __reduce__(self):
        return (exec, ("open('pwned', 'w').write('!')",))


def test_a_pickle_of_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "gpt_oss_stories.model", "weights": Evil()}, "zip.pt")
    refused(tmp_path / "zip.pt", "holds code")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil()))
    refused(tmp_path / "bare.pt", "not a model file")
    assert not (tmp_path / "pwned").exists()


def rewritten(path, change):
    contents = torch.load(path, weights_only=True)
    change(contents)
    torch.save(contents, path)


def test_changed_contents_are_noticed(saved):
    rewritten(saved, lambda c: c["weights"]["norm.weight"].add_(1e-6))
    refused(saved, "checksum")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "not a model of this project"),
        (lambda c: c.update(version=2), "format version 2"),
        (lambda c: c.update(weights=[1]), "not a table of named tensors"),
        (lambda c: c.pop("config"), "parts of it are missing"),
    ],
)
def test_other_contents_are_refused(saved, change, message):
    rewritten(saved, change)
    refused(saved, message)


def test_weights_that_do_not_fit_are_listed_by_name(saved):
    file = load_model_file(saved)
    file.weights["norm.weight"] = torch.zeros(3)
    file.weights["stranger"] = file.weights.pop("layers.0.attention.sinks")
    with pytest.raises(ModelFileError) as caught:
        file.build()
    assert "missing layers.0.attention.sinks" in str(caught.value)
    assert "unknown stranger" in str(caught.value)
    assert "norm.weight is (3,), expected (16,)" in str(caught.value)


def test_compressed_entries_are_refused(saved, tmp_path):
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    refused(bomb, "compressed")


def test_a_full_disk_leaves_the_old_file(saved, model, vocabulary, monkeypatch):
    before = saved.read_bytes()
    import gpt_oss_stories.files as files

    real = files.os.fdopen

    class Full:
        def __init__(self, file):
            self.file, self.room = file, 5_000

        def write(self, data):
            self.room -= memoryview(data).nbytes
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    monkeypatch.setattr(files.os, "fdopen", lambda handle, mode: Full(real(handle, mode)))
    with pytest.raises(FileWriteError, match="No space left on device"):
        save_model(saved, model, vocabulary, {})
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_flipped_bit_anywhere_is_one_clear_line(saved):
    """The weights are guarded by the checksum; the table of names and the zip's own records fail in many ways."""
    whole = saved.read_bytes()
    table, end = whole.index(b"/data.pkl"), len(whole)
    places = [*range(table, table + 3_000, 37), *range(end - 1_200, end, 29), *range(9_000, end, 9_973)]
    refusals = []
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        saved.write_bytes(bytes(broken))
        try:
            load_model_file(saved)  # a bit that nothing reads may flip: padding, or a time of the zip's
        except StoryError as error:
            refusals.append(str(error))
    assert len(refusals) > len(places) / 3
    assert not any("\n" in refusal for refusal in refusals)


def test_a_tensor_that_looks_larger_than_its_bytes_is_refused(saved):
    rewritten(saved, lambda c: c["weights"].update(stranger=torch.zeros(1).expand(1 << 40)))
    refused(saved, "not a table of named tensors")


def test_a_vocabulary_of_another_size_is_refused(saved):
    from gpt_oss_stories.model import model_file

    contents = torch.load(saved, weights_only=True)
    contents["config"]["vocab_size"] += 1
    contents["checksum"] = model_file._checksum(contents)
    torch.save(contents, saved)
    refused(saved, "its vocabulary has")
