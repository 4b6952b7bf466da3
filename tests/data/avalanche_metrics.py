"""Write avalanche_metrics.json: the results of Avalanche's metric plugins for a small stream, and their input
accuracies.

Run it once, in an environment with ``avalanche-lib`` (0.6.0), which the project itself does not need:

    python tests/data/avalanche_metrics.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.evaluation.metrics import accuracy_metrics, bwt_metrics, forgetting_metrics, forward_transfer_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin

TASKS = "Task000"
N_TASKS = 4


def draw(generator, n):
    """Return points of eight overlapping classes in the plane, two classes per task."""
    labels = torch.arange(8).repeat(n)
    angles = labels * torch.pi / 4
    centres = torch.stack([angles.cos(), angles.sin()], dim=1)
    points = centres + 0.35 * torch.randn(len(labels), 2, generator=generator)
    return [(points[labels // 2 == task], labels[labels // 2 == task]) for task in range(N_TASKS)]


def case(name, learning_rate, epochs):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    stream = {"train": draw(generator, 40), "test": draw(generator, 60)}
    benchmark = tensors_benchmark(stream["train"], stream["test"], task_labels=[0] * N_TASKS)
    model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    plugin = EvaluationPlugin(
        accuracy_metrics(experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
        bwt_metrics(experience=True, stream=True),
        forward_transfer_metrics(experience=True, stream=True),
    )
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=learning_rate),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=20,
        train_epochs=epochs,
        eval_every=0,  # forward transfer requires evaluations before and after training
        evaluator=plugin,
    )
    found = [strategy.eval(benchmark.test_stream)]
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[benchmark.test_stream])
        found.append(strategy.eval(benchmark.test_stream))
    rows = [
        [step[f"Top1_Acc_Exp/eval_phase/test_stream/{TASKS}/Exp{task:03d}"] for task in range(N_TASKS)]
        for step in found
    ]
    last = found[-1]
    return {
        "name": name,
        "accuracy_before_learning": rows[0],
        "accuracy_matrix": rows[1:],
        "stream_forgetting": last["StreamForgetting/eval_phase/test_stream"],
        "stream_backward_transfer": last["StreamBWT/eval_phase/test_stream"],
        "stream_forward_transfer": last["StreamForwardTransfer/eval_phase/test_stream"],
        "final_accuracy": last[f"Top1_Acc_Stream/eval_phase/test_stream/{TASKS}"],
    }


if __name__ == "__main__":
    cases = [case("well learned, all forgotten", 0.1, 20), case("barely learned", 0.02, 1)]
    record = {"avalanche": version("avalanche-lib"), "torch": version("torch"), "cases": cases}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
