"""How well can the next layers' experts be known? Learned predictors against running a later layer's router early.

Everything is fitted on the train text's routing and scored on the held-out text's. Prints tables, and writes
`DIRECTORY/traces/study-AHEAD.json`.

The learned ones are z = W u + M f: u is what the router sees, before its norm's scales (so its mean square is 1), W the
later router with its norm's scales folded in, f the features, and M what is learnt, from 0. They learn the later
router's scores, less their mean, since these tell more than which experts were best: ridge regression, Adam where hidden
units make it necessary, or plain SGD, a token at a time. Those marked "by choice" learn only the chosen experts.
"""
import argparse
import json
import pathlib

import numpy as np
import torch
from torch.nn import functional

import routing
import trace

EPOCHS = 20
BATCH = 128
RATE = 2e-3
RIDGE = 1e-4
"""The penalty of a coefficient's square, over the mean over tokens of the squared error."""
PLATT_TOKENS = 4096
"""Train tokens that the two numbers of the calibration are fitted on."""
ONLINE_RATES = (0.03, 0.1)


def state(recorded, routers, layer, ahead):
    """What the router sees, without its norm's scales."""
    return recorded.inputs[:, layer] / routers.norms[layer]


def chosen(recorded, routers, layer, ahead):
    """The chosen experts, each with its share of the mixture; 0 for the others."""
    of_token, experts = recorded.experts[:, layer].astype(np.int64), recorded.logits.shape[-1]
    scores = np.take_along_axis(recorded.logits[:, layer], of_token, 1)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    out = np.zeros((len(of_token), experts), np.float32)
    np.put_along_axis(out, of_token, shares / shares.sum(-1, keepdims=True), 1)
    return out


def path(recorded, routers, layer, ahead):
    """Everything this token chose so far."""
    return np.concatenate([chosen(recorded, routers, earlier, ahead) for earlier in range(layer + 1)], 1)


def previous(recorded, routers, layer, ahead):
    """What the previous token of the document chose in the layer that is predicted."""
    out = np.roll(chosen(recorded, routers, layer + ahead, ahead), 1, axis=0)
    out[recorded.positions == 0] = 0
    return out


def scores(recorded, routers, layer, ahead):
    """What two routers say: the layer's own and the later one, run early. No state is needed but these."""
    return np.concatenate([routing.lookahead_rescaled(recorded, routers, layer, ahead), recorded.logits[:, layer]], 1)


def output(recorded, routers, layer, ahead):
    """The layer's output, without a norm's scales."""
    given = recorded.outputs[:, layer]
    return given / np.sqrt((given ** 2).mean(-1, keepdims=True) + routers.epsilon)


def nothing(recorded, routers, layer, ahead):
    return np.zeros((len(recorded.tokens), recorded.logits.shape[-1]), np.float32)


early, late = routing.lookahead_rescaled, routing.lookahead_output
LEARNED = {
    # name: (scores to start from, features, how it is fitted)
    "previous": (nothing, (previous,), "ridge"),
    "path": (nothing, (path,), "ridge"),
    "path + previous": (nothing, (path, previous), "ridge"),
    "scores + path + previous": (early, (scores, path, previous), "ridge"),
    "lookahead + state, rank 2": (early, (state,), "rank 2"),
    "lookahead + state, rank 4": (early, (state,), "rank 4"),
    "lookahead + state, rank 8": (early, (state,), "rank 8"),
    "lookahead + state": (early, (state,), "ridge"),
    "lookahead + state, by choice": (early, (state,), "choice"),
    "lookahead + state + chosen": (early, (state, chosen), "ridge"),
    "lookahead + state + path + previous": (early, (state, path, previous), "ridge"),
    "lookahead + state + chosen, 256 hidden": (early, (state, chosen), "hidden"),
    "from output + output": (late, (output,), "ridge"),
    "from output + output, 256 hidden": (late, (output,), "hidden"),
}


def targets(recorded, layer):
    out = np.zeros((len(recorded.tokens), recorded.logits.shape[-1]), np.float32)
    np.put_along_axis(out, recorded.experts[:, layer].astype(np.int64), 1, 1)
    return out


def centred(logits):
    return logits - logits.mean(-1, keepdims=True)


def ridge(features, residuals, rank):
    """Least squares with a small penalty; of reduced rank (Izenman 1975) if one is given."""
    design = features.astype(np.float64)
    solution = np.linalg.solve(design.T @ design + RIDGE * len(design) * np.eye(design.shape[1]), design.T @ residuals)
    if rank:
        _, _, directions = np.linalg.svd(design @ solution, full_matrices=False)
        solution = solution @ directions[:rank].T @ directions[:rank]
    return lambda features: features @ solution


def descend(start, features, loss, hidden):
    """Some epochs of Adam on a map from features to scores that starts at 0."""
    torch.manual_seed(0)
    start, features = torch.from_numpy(start).float(), torch.from_numpy(features).float()
    last = torch.nn.Linear(hidden or features.shape[1], start.shape[1])
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    first = [torch.nn.Linear(features.shape[1], hidden), torch.nn.SiLU()] if hidden else []
    net = torch.nn.Sequential(*first, last)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * (len(start) // BATCH))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(start))[:len(start) // BATCH * BATCH].split(BATCH):
            value = loss(start[rows] + net(features[rows]), rows)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    return lambda features: net(torch.from_numpy(features).float()).detach().numpy()


def fit(how, start, features, logits, goal):
    """The correction to add to the scores, as a function of the features."""
    if how == "choice":
        share = torch.from_numpy(goal / goal.sum(-1, keepdims=True))
        return descend(start, features, lambda scores, rows: functional.cross_entropy(scores, share[rows]), None)
    if how == "hidden":
        scores = torch.from_numpy(logits)
        return descend(start, features, lambda found, rows: functional.mse_loss(found, scores[rows]), 256)
    return ridge(features, logits - start, int(how.removeprefix("rank ")) if how != "ridge" else None)


def learned(recorded, routers, name, layer, ahead):
    """The scores on either split."""
    base, features, how = LEARNED[name]
    start, joined = {}, {}
    for split, whole in recorded.items():
        start[split] = centred(base(whole, routers, layer, ahead))
        parts = [part(whole, routers, layer, ahead) for part in features]
        joined[split] = np.concatenate([*parts, np.ones((len(whole.tokens), 1), np.float32)], 1)
    train = recorded["train"]
    correction = fit(how, start["train"], joined["train"], centred(train.logits[:, layer + ahead]),
                     targets(train, layer + ahead))
    return {split: start[split] + correction(joined[split]) for split in recorded}


def margins(scores, k):
    """How far each score lies above the middle between the k-th and the next: above 0 it would be chosen."""
    ordered = -np.sort(-scores, axis=-1)
    return scores - (ordered[:, k - 1:k] + ordered[:, k:k + 1]) / 2


def platt(margin, happened, steps=8):
    """Slope and offset with which a sigmoid of the margin is the probability (Platt 1999), by Newton's method."""
    design = np.stack([margin.ravel(), np.ones(margin.size)], 1).astype(np.float64)
    happened, weights = happened.ravel(), np.array([1.0, 0.0])
    for _ in range(steps):
        probability = 1 / (1 + np.exp(-design @ weights))
        curvature = design.T @ (design * (probability * (1 - probability))[:, None])
        weights -= np.linalg.solve(curvature + 1e-6 * np.eye(2), design.T @ (probability - happened))
    return weights


def calibration(probabilities, happened, bins=10):
    """The expected calibration error (Naeini et al. 2015) over all pairs of token and expert."""
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    inside = [which == one for one in range(bins)]
    return float(sum(here.mean() * abs(probabilities[here].mean() - happened[here].mean())
                     for here in inside if here.any()))


def judge(recorded, scores, layer):
    """Held-out recall at each width, the part of routings predicted whole, and the calibration error."""
    actual = recorded["held-out"].experts[:, layer]
    found = scores["held-out"]
    result = {f"@{width}": routing.recall(routing.top(found, width), actual) for width in routing.WIDTHS}
    k = actual.shape[-1]
    pairs = zip(np.sort(routing.top(found, k)), np.sort(actual))
    result["whole"] = float(np.mean([(one == other).all() for one, other in pairs]))
    few = slice(0, PLATT_TOKENS)
    slope, offset = platt(margins(scores["train"][few], k), targets(recorded["train"], layer)[few])
    probability = 1 / (1 + np.exp(-(slope * margins(found, k) + offset)))
    result["calibration"] = calibration(probability, targets(recorded["held-out"], layer))
    return result


def online(recorded, routers, ahead, rate, features):
    """Plain SGD, a token at a time, over the train text and on over the held-out text: predict, then learn.

    The rate is divided by the features' squared length, as in normalised least mean squares. Returns the held-out recall
    by layer when learning goes on, and the one when it stopped before.
    """
    layers = recorded["train"].logits.shape[1] - ahead
    learnt, frozen = None, None
    hits, stopped = np.zeros(layers), np.zeros(layers)
    for split in ("train", "held-out"):
        whole = recorded[split]
        starts = np.stack([centred(early(whole, routers, layer, ahead)) for layer in range(layers)], 1)
        inputs = np.stack([np.concatenate([part(whole, routers, layer, ahead) for part in features], 1)
                           for layer in range(layers)], 1)
        inputs = np.concatenate([inputs, np.ones((*inputs.shape[:2], 1), np.float32)], -1)
        logits = centred(whole.logits[:, ahead:])
        if learnt is None:
            learnt = np.zeros((layers, starts.shape[-1], inputs.shape[-1]), np.float32)
        else:
            frozen = learnt.copy()
        for token, (start, given, logit) in enumerate(zip(starts, inputs, logits)):
            scores = start + np.matmul(learnt, given[:, :, None])[:, :, 0]
            if frozen is not None:
                actual = whole.experts[token, ahead:]
                hits += hit(scores, actual)
                stopped += hit(start + np.matmul(frozen, given[:, :, None])[:, :, 0], actual)
            step = rate / (given ** 2).sum(-1)
            learnt += (step[:, None] * (logit - scores))[:, :, None] * given[:, None, :]
    count = len(recorded["held-out"].tokens)
    return hits / count, stopped / count


def hit(scores, actual):
    """The part of each layer's chosen experts that have the best scores."""
    best = np.argpartition(-scores, actual.shape[-1], axis=-1)[:, :actual.shape[-1]]
    return (actual[:, :, None] == best[:, None, :]).any(-1).mean(-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--documents", type=int, default=32, help="of train text, to fit on; 256 tokens each")
    parser.add_argument("--held-out", type=int, default=16, help="documents to score on")
    parser.add_argument("--ahead", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recorded, routers = trace.record_all(options.directory, {"train": options.documents, "held-out": options.held_out})
    layers, results = recorded["train"].logits.shape[1] - options.ahead, {}
    print(f"{options.ahead} ahead{'':34} {'@2':>6} {'@4':>6} {'whole':>6} {'calib.':>7}   @2 by predicted layer")
    for name in [*routing.LOOKAHEADS, *LEARNED]:
        rows = []
        for layer in range(layers):
            if name in LEARNED:
                found = learned(recorded, routers, name, layer, options.ahead)
            else:
                found = {split: routing.LOOKAHEADS[name](whole, routers, layer, options.ahead)
                         for split, whole in recorded.items()}
            rows.append(judge(recorded, found, layer + options.ahead))
        results[name] = rows
        mean = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
        print(f"{name:41} {mean['@2']:6.3f} {mean['@4']:6.3f} {mean['whole']:6.3f} {mean['calibration']:7.4f}   "
              + " ".join(f"{row['@2']:.3f}" for row in rows), flush=True)
    for features in ((state,), (state, chosen)):
        for rate in ONLINE_RATES:
            going_on, stopped = online(recorded, routers, options.ahead, rate, features)
            name = f"online SGD, {' + '.join(part.__name__ for part in features)}, rate {rate}"
            results[name] = [{"@2": one, "@2 stopped": other} for one, other in zip(going_on, stopped)]
            print(f"{name:41} {going_on.mean():6.3f} ({stopped.mean():.3f} when learning stops before held-out text)   "
                  + " ".join(f"{one:.3f}" for one in going_on), flush=True)
    path = options.directory / "traces" / f"study-{options.ahead}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
