.PHONY: check format-check lint types test format bench serve requirements readme

# The definition of passing; .ci/run calls it too.
check: format-check lint types test

format-check:
	uv run ruff format --check

lint:
	uv run ruff check

# Gradio writes stubs beside our components when they are imported; the checker would read those
# instead of the code.
types:
	find inspector -name '*.pyi' -delete
	uv run basedpyright

test:
	uv run pytest

format:
	uv run ruff format
	uv run ruff check --fix

# But for table.py, which takes hours and texts of its own.
bench:
	@set -e; for script in $(filter-out %/table.py,$(wildcard tests/bench/*.py)); do echo "== $$script"; uv run python "$$script"; done

serve:
	uv run inspector serve

# Through a second file, so that a failure leaves the old one as it was.
requirements:
	uv run python tests/write_requirements.py > requirements.txt.new
	mv requirements.txt.new requirements.txt

# The parts of the README that are made from the code.
readme:
	uv run python tests/write_readme.py
