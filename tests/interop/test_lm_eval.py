"""The task for lm-evaluation-harness: its files, and what the harness's own command line makes of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jinja2
import pytest
import torch
import yaml
from click.testing import CliRunner
from transformers import AutoTokenizer

from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data.originals import original_stories
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.data.storybook import write_stories
from gpt_oss_stories.interop.checkpoints import open_checkpoint
from gpt_oss_stories.interop.export import export_huggingface
from gpt_oss_stories.interop.loading import load_model
from gpt_oss_stories.interop.tokenizer_files import write_tokenizer_files
from gpt_oss_stories.tokenization import (
    Question,
    build_story_vocabulary,
    count_tokens,
    harmony_vocabulary,
    render_conversation,
)
from support.small_models import saved, small_config, small_vocabulary

SCRIPT = Path(__file__).parents[2] / "scripts" / "lm_eval_task.py"
SEED, STORIES, FRACTION, MAX_TOKENS = 3, 6, 0.02, 448
COUNT = 20
HAS_LM_EVAL = importlib.util.find_spec("lm_eval") is not None


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("lm_eval_task", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory):
    """The task's folder, under a name that YAML would stumble over."""
    folder = tmp_path_factory.mktemp("task") / 'it\'s: a "folder"'
    script.write_task(folder, STORIES, SEED, FRACTION, MAX_TOKENS)
    return folder


@pytest.fixture(scope="module")
def task(folder):
    return yaml.safe_load((folder / "story_questions.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def documents(task):
    lines = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def records():
    """All stories that the documents can be about, by their text."""
    stories = [*original_stories(), *write_stories(1_000, SEED)]
    return {record.text: record for record in stories}


def conversation(document, records, vocabulary, answer):
    """The document as training renders it, with one of its choices as the answer."""
    record = records[document["story"]]
    [asked] = [question for question in record.questions if question.question == document["question"]]
    question = Question(question=asked.question, answer=answer, choices=asked.choices)
    return render_conversation(vocabulary, record.request, record.text, [question]).tokens


def test_the_right_answer_is_among_different_choices(documents, records):
    assert len({document["story"] for document in documents}) > STORIES  # written ones too
    assert len({document["story"] for document in documents if document["id"].startswith("storybook")}) == STORIES
    for document in documents:
        answers = {question.question: question.answer for question in records[document["story"]].questions}
        assert len(set(document["choices"])) == len(document["choices"]) >= 2
        assert document["choices"][document["answer_index"]] == answers[document["question"]]
    places = Counter(document["answer_index"] for document in documents)
    assert sorted(places) == [0, 1, 2]
    assert max(places.values()) < 0.55 * len(documents)
    longest = sum(
        max(document["choices"], key=len) == document["choices"][document["answer_index"]] for document in documents
    )
    assert longest < 0.75 * len(documents)  # nor is it told by its length


def test_no_training_has_seen_the_stories(documents, tmp_path):
    """Prepare the stories of the same seed for training: all that the questions are about are held out."""
    config = DataConfig(
        storybook_stories=1_000,
        storybook_seed=SEED,
        first_readers=0,
        request_fraction=0.0,
        validation_fraction=FRACTION,
        data_dir=str(tmp_path),
    )
    prepared = prepare(config, workers=1)
    texts = {}
    for name, shard in (("train", prepared.train), ("validation", prepared.validation)):
        texts[name] = {prepared.vocabulary.decode(shard.story(index)[0].tolist()) for index in range(len(shard))}
    stories = {document["story"] for document in documents}
    assert len(texts["train"]) > 2_000
    assert not stories & texts["train"]
    assert stories <= texts["validation"]


def test_the_prompt_is_the_conversation_of_training(task, documents, records, tmp_path):
    vocabulary = small_vocabulary()
    write_tokenizer_files(tmp_path, vocabulary, block_size=512)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(task["doc_to_text"])
    for document in documents:
        prompt = tokenizer.encode(template.render(**document), add_special_tokens=False)
        for choice in document[task["doc_to_choice"]]:
            answer = [*vocabulary.encode(choice), vocabulary.special("return")]
            assert prompt + answer == conversation(document, records, vocabulary, choice)
    assert task["target_delimiter"] == ""
    assert task["doc_to_target"] == "answer_index"


def test_long_conversations_are_left_out(script, records):
    stories = list(script.held_out_stories(2, SEED, FRACTION))
    everything, short = list(script.documents(stories, 10_000)), list(script.documents(stories, 250))
    assert 0 < len(short) < len(everything)
    assert everything[0] in short  # a story of ninety words


def test_the_command_says_what_it_wrote(script, tmp_path):
    result = CliRunner().invoke(script.main, [str(tmp_path / "new"), "--stories", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    count = len((tmp_path / "new" / "story_questions.jsonl").read_text(encoding="utf-8").splitlines())
    assert result.output.startswith(f"{count} questions about ")


@pytest.mark.timeout(300)
@pytest.mark.slow  # the harness reads the descriptions of thousands of tasks before it begins
@pytest.mark.skipif(not HAS_LM_EVAL, reason="lm_eval is not installed")
def test_the_harness_evaluates_an_exported_model(script, records, tmp_path):
    """Its likelihoods of all answers are those that our model gives to the conversations of training."""
    told = script.write_task(tmp_path / "task", 4, SEED, FRACTION, 300)
    texts = [text for document in told for text in (document["request"], document["story"], *document["choices"])]
    vocabulary = build_story_vocabulary(count_tokens(harmony_vocabulary(), texts))
    path = saved(tmp_path / "model.pt", small_config(vocabulary, n_layer=1, block_size=512), vocabulary)
    export_huggingface(open_checkpoint(path), tmp_path / "model")
    arguments = {"pretrained": tmp_path / "model", "dtype": "float32", "add_bos_token": False}
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", "story_questions", "--device", "cpu"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
        *("--include_path", tmp_path / "task", "--limit", str(COUNT), "--batch_size", "4"),
        *("--output_path", tmp_path / "results", "--log_samples"),
    ]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    [result_file] = (tmp_path / "results").rglob("results_*.json")
    [sample_file] = (tmp_path / "results").rglob("samples_story_questions_*.jsonl")
    found = json.loads(result_file.read_text(encoding="utf-8"))["results"]["story_questions"]
    samples = [json.loads(line) for line in sample_file.read_text(encoding="utf-8").splitlines()]
    assert len(samples) == COUNT
    model, right = load_model(path), 0
    for sample in samples:
        document = sample["doc"]
        ours = []
        for choice in document["choices"]:
            tokens = torch.tensor(conversation(document, records, vocabulary, choice))
            count = len(vocabulary.encode(choice))
            logged = model.logits(tokens[None]).log_softmax(-1)[0, :-1].gather(-1, tokens[1:, None])[:, 0]
            ours.append(float(logged[-1 - count : -1].sum()))  # without the <|return|> at the end
        theirs = [float(response[0]) for [response] in sample["resps"]]
        assert theirs == pytest.approx(ours, abs=1e-3)
        right += max(range(len(ours)), key=ours.__getitem__) == document["answer_index"]
    assert found["acc,none"] == pytest.approx(right / COUNT)
    assert "acc_norm,none" in found
