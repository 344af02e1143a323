"""Small labelled tasks, written as files in the layout of GLUE."""

HEADERS = {
    "sst2": ["sentence", "label"],
    "stsb": ["sentence1", "sentence2", "label"],
    "mrpc": ["sentence1", "sentence2", "label"],
    "qqp": ["question1", "question2", "label"],
    "qnli": ["question", "sentence", "label"],
}
GOOD, BAD = ("a rose", "the rose is red", "roses"), ("xx 12 %", "99 % xx", "12 xx 99")


def write_task(data, name, splits):
    for split, rows in splits.items():
        path = data / name / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join("\t".join(map(str, row)) for row in [HEADERS[name], *rows]) + "\n")


def flowers(count):
    """Sentences that are easily told apart."""
    return [((GOOD if row % 2 else BAD)[row % 3], row % 2) for row in range(count)]
