# make docs: build the documentation in docs/_build/html, with warnings as errors and without the network.
# make picture: copy the README's picture from the gallery that `make docs` ran.
# make test, make slow, make bench: run the fast tests, the slow tests, and the benchmarks of speed and memory.
PYTHON ?= python

.PHONY: docs picture test slow bench clean

docs:
	MPLBACKEND=agg $(PYTHON) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

picture:
	cp docs/_build/html/_images/sphx_glr_plot_01_stream_of_classes_001.png docs/images/stream.png

test:
	$(PYTHON) -m pytest

slow:
	$(PYTHON) -m pytest -m "slow or browser"

bench:
	$(PYTHON) -m benchmarks

clean:
	rm -rf docs/_build docs/api docs/gallery build dist
