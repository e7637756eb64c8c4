"""How well can the next layers' experts be known? Learned predictors against running the next router early.

Everything is fitted on the train text's routing and scored on the held-out text's. Prints tables, and writes
`DIRECTORY/traces/study.json`.
"""
import argparse
import json
import pathlib

import numpy as np
import torch
from torch.nn import functional

import routing
import trace

EPOCHS = 12
BATCH = 256
RATE = 3e-3


def one_hot(recorded, layer):
    """The chosen experts, each with its share of the mixture; the others are 0."""
    chosen, experts = recorded.experts[:, layer].astype(np.int64), recorded.logits.shape[-1]
    scores = np.take_along_axis(recorded.logits[:, layer], chosen, 1)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    out = np.zeros((len(chosen), experts), np.float32)
    np.put_along_axis(out, chosen, shares / shares.sum(-1, keepdims=True), 1)
    return out


def before(recorded, layer):
    """What the previous token of the same document chose in `layer`; nothing for the first one."""
    out = np.roll(one_hot(recorded, layer), 1, axis=0)
    out[recorded.positions == 0] = 0
    return out


def targets(recorded, layer):
    out = np.zeros((len(recorded.tokens), recorded.logits.shape[-1]), np.float32)
    np.put_along_axis(out, recorded.experts[:, layer].astype(np.int64), 1, 1)
    return out


def nothing(recorded, routers, layer, ahead):
    return np.zeros((len(recorded.tokens), recorded.logits.shape[-1]), np.float32)


def state(recorded, routers, layer, ahead):
    return recorded.inputs[:, layer]


def chosen(recorded, routers, layer, ahead):
    return one_hot(recorded, layer)


def path(recorded, routers, layer, ahead):
    """Everything chosen by this token so far."""
    return np.concatenate([one_hot(recorded, earlier) for earlier in range(layer + 1)], 1)


def previous(recorded, routers, layer, ahead):
    return before(recorded, layer + ahead)


def output(recorded, routers, layer, ahead):
    given = recorded.outputs[:, layer]
    return given / np.sqrt((given ** 2).mean(-1, keepdims=True) + routers.epsilon)


def scores(recorded, routers, layer, ahead):
    return routing.lookahead_rescaled(recorded, routers, layer, ahead)


def own(recorded, routers, layer, ahead):
    return recorded.logits[:, layer]


LEARNED = {
    # name: (scores to start from, features, rank of the correction or None, hidden units or None)
    "previous token's": (nothing, (previous,), None, None),
    "chosen path": (nothing, (path,), None, None),
    "chosen path + previous": (nothing, (path, previous), None, None),
    "router scores": (nothing, (scores, own), None, None),
    "router scores + chosen + previous": (nothing, (scores, own, chosen, previous), None, None),
    "state": (nothing, (state,), None, None),
    "lookahead + state": (routing.lookahead_rescaled, (state,), None, None),
    "lookahead + state, rank 4": (routing.lookahead_rescaled, (state,), 4, None),
    "lookahead + state, rank 8": (routing.lookahead_rescaled, (state,), 8, None),
    "lookahead + chosen": (routing.lookahead_rescaled, (chosen,), None, None),
    "lookahead + state + chosen": (routing.lookahead_rescaled, (state, chosen), None, None),
    "lookahead + state + chosen, rank 8": (routing.lookahead_rescaled, (state, chosen), 8, None),
    "lookahead + state + chosen + previous": (routing.lookahead_rescaled, (state, chosen, previous), None, None),
    "lookahead + state + path + previous": (routing.lookahead_rescaled, (state, path, previous), None, None),
    "lookahead + state + chosen, 256 hidden": (routing.lookahead_rescaled, (state, chosen), None, 256),
    "lookahead from output + output": (routing.lookahead_output, (output,), None, None),
    "lookahead from output + output, rank 8": (routing.lookahead_output, (output,), 8, None),
    "lookahead from output + output, 256 hidden": (routing.lookahead_output, (output,), None, 256),
}


def build(inputs, experts, rank, hidden):
    """A map from features to scores that starts at zero."""
    if rank is None and hidden is None:
        net = torch.nn.Linear(inputs, experts)
        last = net
    elif rank is not None:
        last = torch.nn.Linear(rank, experts)
        net = torch.nn.Sequential(torch.nn.Linear(inputs, rank, bias=False), last)
    else:
        last = torch.nn.Linear(hidden, experts)
        net = torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.SiLU(), last)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    return net


def fit(start, features, goal, rank, hidden):
    """Adam on the logistic loss of each expert by itself, whose sigmoids are the probabilities that prefetch needs."""
    torch.manual_seed(0)
    net = build(features.shape[1], goal.shape[1], rank, hidden)
    scale = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([*net.parameters(), scale], lr=RATE)
    steps = EPOCHS * (len(goal) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(goal)).split(BATCH):
            if len(rows) < BATCH:
                continue
            loss = functional.binary_cross_entropy_with_logits(scale * start[rows] + net(features[rows]), goal[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return lambda start, features: (scale * start + net(features)).detach().numpy()


def learned(recorded, routers, name, layer, ahead):
    """Held-out recalls at each width, and the calibration error of the probabilities."""
    base, features, rank, hidden = LEARNED[name]

    def prepared(split):
        joined = np.concatenate([part(recorded[split], routers, layer, ahead) for part in features], 1)
        return torch.from_numpy(base(recorded[split], routers, layer, ahead)), torch.from_numpy(joined)

    start, inputs = prepared("train")
    mean, deviation = inputs.mean(0), inputs.std(0).clamp_min(1e-3)
    predict = fit(start, (inputs - mean) / deviation, torch.from_numpy(targets(recorded["train"], layer + ahead)),
                  rank, hidden)
    start, inputs = prepared("held-out")
    scores = predict(start, (inputs - mean) / deviation)
    actual = recorded["held-out"].experts[:, layer + ahead]
    recalls = [routing.recall(routing.top(scores, width), actual) for width in routing.WIDTHS]
    return [*recalls, calibration(1 / (1 + np.exp(-scores)), targets(recorded["held-out"], layer + ahead))]


def calibration(probabilities, happened, bins=10):
    """The expected calibration error (Naeini et al. 2015) over all pairs of token and expert."""
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    error = 0.0
    for one in range(bins):
        inside = which == one
        if inside.any():
            error += inside.mean() * abs(probabilities[inside].mean() - happened[inside].mean())
    return float(error)


def plain(recorded, routers, scores, layer, ahead):
    actual = recorded["held-out"].experts[:, layer + ahead]
    found = scores(recorded["held-out"], routers, layer, ahead)
    return [routing.recall(routing.top(found, width), actual) for width in routing.WIDTHS] + [float("nan")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ahead", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recorded, routers = trace.record_all(options.directory)
    layers, results = recorded["train"].logits.shape[1] - options.ahead, {}
    print(f"{'predictor':44} {'@2':>6} {'@4':>6} {'calib.':>7}   @2 by predicted layer")
    for name in [*routing.LOOKAHEADS, *LEARNED]:
        if name in LEARNED:
            rows = [learned(recorded, routers, name, layer, options.ahead) for layer in range(layers)]
        else:
            rows = [plain(recorded, routers, routing.LOOKAHEADS[name], layer, options.ahead) for layer in range(layers)]
        results[name] = rows
        two, four, error = np.mean(rows, 0)
        print(f"{name:44} {two:6.3f} {four:6.3f} {error:7.4f}   " + " ".join(f"{row[0]:.3f}" for row in rows), flush=True)
    path = options.directory / "traces" / f"study-{options.ahead}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
