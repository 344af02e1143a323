"""Labelled tasks: reading them, fine-tuning on them, scoring on them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForSequenceClassification

import tiny
from secateurs.cli import run
from secateurs.encoding import tokenise
from secateurs.errors import InputError
from secateurs.evaluation.classification import predict, score_predictions
from secateurs.finetuning import Training, add_head, choose_training, finetune, training_folder
from secateurs.models.loading import hash_weights, load_model, wrap_model
from secateurs.scoring import score_task
from secateurs.tasks import TASKS, read_examples
from tiny_tasks import BAD, GOOD, HEADERS, flowers, write_task


@pytest.fixture
def data(tmp_path):
    write_task(tmp_path / "data", "sst2", {"train": flowers(60), "validation": flowers(12)})
    return tmp_path / "data"


def base():
    return wrap_model(tiny.make_model("bert-model"), tiny.make_tokenizer())


@pytest.mark.parametrize("name", TASKS)
def test_every_task_reads_its_columns(name, tmp_path):
    rows = [[*["some text"] * (len(HEADERS[name]) - 1), label] for label in (0, 1, 1)]
    write_task(tmp_path, name, {"train": rows})
    examples = read_examples(TASKS[name], tmp_path, "train")
    assert examples.labels == (0, 1, 1)
    assert examples.texts == (("some text",) * (len(HEADERS[name]) - 1),) * 3


def test_a_sample_is_random_keeps_the_order_and_depends_on_the_seed(data):
    rows = {seed: read_examples(TASKS["sst2"], data, "train", max_rows=20, seed=seed) for seed in (0, 1)}
    assert len(rows[0]) == 20
    assert rows[0] != rows[1]
    assert rows[0] == read_examples(TASKS["sst2"], data, "train", max_rows=20, seed=0)
    assert len(read_examples(TASKS["sst2"], data, "train", max_rows=1000)) == 60


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        ("sst2", "2", "row 2: the label must be a whole number from 0 to 1, got '2'"),
        ("sst2", "good", "row 2: the label must be a whole number from 0 to 1, got 'good'"),
        ("stsb", "nan", "row 2: the label must be a number, got 'nan'"),
    ],
)
def test_a_label_that_is_none_is_named_with_its_row(task, label, message, tmp_path):
    texts = ["text"] * (len(HEADERS[task]) - 1)
    write_task(tmp_path, task, {"train": [[*texts, 1], [*texts, label]]})
    with pytest.raises(InputError, match=message):
        read_examples(TASKS[task], tmp_path, "train")


def test_data_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no mrpc/train\.tsv in"):
        read_examples(TASKS["mrpc"], tmp_path, "train")
    write_task(tmp_path, "mrpc", {"train": []})
    with pytest.raises(InputError, match="has no rows"):
        read_examples(TASKS["mrpc"], tmp_path, "train")


def test_metrics_are_those_of_scikit_learn_and_scipy():
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(size=(50, 2)))
    truth = torch.from_numpy(generator.integers(0, 2, 50))
    predicted = logits.argmax(dim=1)
    found = score_predictions(TASKS["mrpc"], logits, truth)
    assert found == {"f1": f1_score(truth, predicted), "accuracy": accuracy_score(truth, predicted)}
    assert list(score_predictions(TASKS["sst2"], logits, truth)) == ["accuracy"]
    scores = torch.from_numpy(generator.normal(size=50))
    found = score_predictions(TASKS["stsb"], logits[:, :1], scores)
    assert found["pearson"] == pytest.approx(pearsonr(logits[:, 0], scores).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(logits[:, 0], scores).statistic)
    assert score_predictions(TASKS["stsb"], torch.ones(50, 1), scores) == {"pearson": 0.0, "spearman": 0.0}


def test_padding_changes_no_prediction(data):
    loaded = wrap_model(tiny.make_model("bert"), tiny.make_tokenizer())
    rows = tokenise(loaded, TASKS["sst2"], read_examples(TASKS["sst2"], data, "validation"))
    together = predict(loaded.model, rows)
    with torch.inference_mode():
        alone = torch.cat([loaded.model(**rows.batch([place])).logits for place in range(len(rows))])
    assert (together - alone).abs().max() < 1e-5


def test_it_learns_what_can_be_learnt_and_leaves_the_base_alone(data):
    loaded = base()
    before = hash_weights(loaded.model)
    result = finetune(loaded, TASKS["sst2"], data, Training(3e-3, 8, epochs=4))
    assert result.scores == {"accuracy": 1.0}
    assert (result.rows, result.validation_rows) == (60, 12)
    assert result.rows_per_second > 0
    assert hash_weights(loaded.model) == before
    assert score_task(result.loaded, "sst2", data) == ({"accuracy": 1.0}, 12)


def test_a_number_is_learnt_by_regression(tmp_path):
    pairs = [("a rose", (GOOD if row % 2 else BAD)[row % 3], float(row % 2)) for row in range(60)]
    write_task(tmp_path, "stsb", {"train": pairs, "validation": pairs[:12]})
    result = finetune(base(), TASKS["stsb"], tmp_path, Training(3e-3, 8, epochs=10))
    assert result.loaded.model.config.problem_type == "regression"
    assert result.scores["pearson"] > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data):
    weights = [
        hash_weights(finetune(base(), TASKS["sst2"], data, Training(1e-3, 8, epochs=1, seed=seed)).loaded.model)
        for seed in (0, 0, 1)
    ]
    assert weights[0] == weights[1] != weights[2]


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(data, tmp_path):
    training = Training(1e-3, 8, epochs=3)
    whole = finetune(base(), TASKS["sst2"], data, training)
    state, seen = tmp_path / "state", []

    def stop(phase, done, total):
        if done == 2 * total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(base(), TASKS["sst2"], data, training, state=state, progress=stop)
    resumed = finetune(base(), TASKS["sst2"], data, training, state=state, progress=lambda *report: seen.append(report))
    assert seen[0][1] == 9  # the first epoch has 8 steps
    assert hash_weights(resumed.loaded.model) == hash_weights(whole.loaded.model)
    other = replace(training, seed=1)
    with pytest.raises(InputError, match=r"unfinished training with seed 0 instead of 1; --overwrite begins afresh"):
        finetune(base(), TASKS["sst2"], data, other, state=state)
    afresh = finetune(base(), TASKS["sst2"], data, other, state=state, restart=True)
    assert hash_weights(afresh.loaded.model) != hash_weights(whole.loaded.model)


def test_frozen_embeddings_stay_as_they_are_and_the_rest_learns(data):
    training = Training(3e-3, 8, epochs=2, freeze_embeddings=True)
    model = finetune(base(), TASKS["sst2"], data, training).loaded.model
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, base().model.embeddings.word_embeddings.weight)
    assert not torch.equal(
        model.bert.encoder.layer[0].output.dense.weight, base().model.encoder.layer[0].output.dense.weight
    )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_bert_tiny_takes_the_papers_settings_and_others_their_own():
    loaded = base()
    assert choose_training(loaded, TASKS["mrpc"]) == Training(5e-5, 32)
    loaded.model.config.hidden_size = 128
    assert choose_training(loaded, TASKS["mrpc"]) == Training(3e-4, 8)
    assert choose_training(loaded, TASKS["qnli"], batch_size=4) == Training(3e-4, 4)
    with pytest.raises(InputError, match="epochs must be above 0, got 0"):
        choose_training(loaded, TASKS["sst2"], epochs=0)


def test_the_new_head_depends_on_the_seed_alone_and_the_rest_is_the_base():
    loaded = base()
    first, again, other = (add_head(loaded, TASKS["sst2"], seed) for seed in (0, 0, 1))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert hash_weights(first.bert) == hash_weights(loaded.model)
    with pytest.raises(InputError, match="only encoders"):
        add_head(wrap_model(tiny.make_model("gpt2"), tiny.make_tokenizer()), TASKS["sst2"], 0)


@pytest.mark.parametrize("case", ["roberta", "electra", "distilbert", "albert", "modernbert"])
def test_encoders_of_other_families_get_a_head(case):
    loaded = wrap_model(tiny.make_model(case), tiny.make_tokenizer())
    model = add_head(loaded, TASKS["stsb"], 0)
    assert tiny.outputs(model, tiny.make_inputs(model)).shape == (3, 1)


def test_the_command_writes_an_ordinary_checkpoint_that_can_be_scored(data, tmp_path, capsys):
    folder, out = tiny.save_checkpoint(tmp_path / "base", "bert-model"), tmp_path / "out"
    words = ["finetune", folder, "sst2", out, "--data", data, "--epochs", 1, "--json"]
    assert run([str(word) for word in words]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["training"]["learning_rate"] == 5e-5
    assert "fine-tuned on sst2" in (out / "README.md").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert hash_weights(model) == hash_weights(load_model(str(out)).model)
    assert not training_folder(out).exists()
    assert run(["evaluate", str(out), "--task", "sst2", "--data", str(data), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)["score"]
    assert score["accuracy"] == pytest.approx(content["scores"]["accuracy"], abs=1e-6)
    assert score["rows"] == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "{base}", "sst3", "{out}"], "unknown task 'sst3'; did you mean 'sst2'?"),
        (["finetune", "{base}", "sst2", "{base}"], "OUT must lie outside the model's own folder"),
        (["finetune", "{base}", "sst2", "{out}", "--data", "{out}"], "no sst2/train.tsv in"),
        (
            ["finetune", "{base}", "sst2", "{out}", "--data", "{data}", "--batch-size", "0"],
            "batch_size must be above 0",
        ),
        (["evaluate", "{base}", "--task", "sst2", "--data", "{data}"], "BertModel has no head for sst2"),
        (["evaluate", "{base}", "--task", "nope", "--data", "{data}"], "unknown task 'nope'"),
    ],
)
def test_wrong_calls_are_told_in_a_line(words, message, data, tmp_path, capsys):
    folder = tiny.save_checkpoint(tmp_path / "base", "bert-model")
    places = {"base": folder, "out": tmp_path / "out", "data": data}
    assert run([word.format(**places) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_head_of_another_size_is_refused(data):
    model = add_head(base(), TASKS["stsb"], 0)
    with pytest.raises(InputError, match="sst2 needs 2 output"):
        score_task(wrap_model(model, tiny.make_tokenizer()), "sst2", data)
