"""A stream of three classes in two tasks whose only feature is the class, and methods that know the classes seen."""

import numpy as np

from pipeline.evaluation.loop import Bench, feed_then_test
from pipeline.evaluation.streams import Task


class LastTaskOnly:
    """A method that knows only the classes of the last task. The only feature is the class itself."""

    def partial_fit(self, X, y):
        self.known = set(y.tolist())

    def predict(self, X):
        return np.array([label if label in self.known else -1 for label in X[:, 0].astype(int)])


class Everything(LastTaskOnly):
    known: set = frozenset()

    def partial_fit(self, X, y):
        self.known = self.known | set(y.tolist())


Y = np.array([0, 0, 1, 1, 2, 2])
TASKS = [Task((0, 1), np.array([0, 1, 2, 3])), Task((2,), np.array([5, 4]))]
Y_TEST = np.array([0, 1, 2, 2])


def run(model):
    return feed_then_test(model, TASKS, Y[:, None], Y, Y_TEST[:, None], Y_TEST)


def bench(batch_rows=2):
    X, X_test = Y[:, None].astype(np.float32), Y_TEST[:, None].astype(np.float32)
    return Bench(X, Y, X_test, Y_TEST, (0, 1), (TASKS, TASKS), batch_rows, ("a", "b", "c"))
