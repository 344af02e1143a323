"""Tables: which columns are figures, and Markdown."""

from secateurs.tables import as_markdown, find_figures


def test_a_column_is_figures_where_every_cell_begins_with_a_digit_or_is_empty():
    rows = [["flap", "<0.1 *", "-", "", "2 of 3"], ["random", "-0.1 ± 0.2", "+1.5", "", "none"]]
    assert find_figures(["method", "score", "gap", "remark", "share"], rows) == [False, True, True, False, False]


def test_markdown_puts_titles_on_one_line_and_figures_to_the_right():
    assert as_markdown(["method", "keep 0.8\nFLOPs 0.8"], [["flap", "1"]]) == (
        "| method | keep 0.8, FLOPs 0.8 |\n| --- | ---: |\n| flap | 1 |\n"
    )
