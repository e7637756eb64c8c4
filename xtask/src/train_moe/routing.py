"""Records the routing of the trained model, and measures how predictable it is without learning anything."""
import dataclasses

import numpy as np
import torch

HORIZONS = (1, 2)
"""Layers ahead that are predicted."""
WIDTHS = (2, 4)
"""Experts that are predicted for each token and layer; the model chooses two."""


@dataclasses.dataclass
class Routing:
    """What the routers saw and chose: tokens in the order of decoding, document by document.

    T tokens, L layers, E experts, k chosen ones, H values in a hidden state.
    """
    tokens: np.ndarray
    """i32 [T]"""
    positions: np.ndarray
    """i32 [T]: the token's place in its document; 0 begins one."""
    experts: np.ndarray
    """u8 [T, L, k]: the chosen experts, best first."""
    logits: np.ndarray
    """f32 [T, L, E]: the routers' scores before softmax."""
    inputs: np.ndarray
    """f32 [T, L, H]: what the routers are applied to, the normed state after attention."""
    outputs: np.ndarray
    """f32 [T, L, H]: the residual stream that the layers hand on."""


@dataclasses.dataclass
class Routers:
    """The weights that choose: they are enough to run a router early."""
    weights: np.ndarray
    """f32 [L, E, H]"""
    norms: np.ndarray
    """f32 [L, H]: the RMS norm's scales before the routers."""
    epsilon: float


def choose_documents(documents, topics, count, length):
    """The first `length` tokens of `count` documents that are that long, one topic after the other."""
    queues = {}
    for topic, document in zip(topics, documents):
        if len(document) >= length:
            queues.setdefault(topic, []).append(document[:length])
    chosen = []
    while len(chosen) < count and any(queues.values()):
        for topic in sorted(queues):
            if queues[topic]:
                # Spread over the whole list, since neighbours in it resemble one another.
                chosen.append(queues[topic].pop(len(queues[topic]) * 5 // 8))
    return chosen[:count]


def record(model, documents):
    """Runs each document through the model from its first token."""
    layers = model.model.layers
    inputs, outputs, handles = {}, {}, []

    def keep(store, layer, value):
        store[layer] = value.detach().reshape(-1, value.shape[-1]).float().numpy()

    for at, layer in enumerate(layers):
        gate = layer.block_sparse_moe.gate
        handles.append(gate.register_forward_hook(lambda _, args, __, at=at: keep(inputs, at, args[0])))
        handles.append(layer.register_forward_hook(
            lambda _, __, out, at=at: keep(outputs, at, out[0] if isinstance(out, tuple) else out)))
    parts = []
    model.eval()
    with torch.no_grad():
        for document in documents:
            result = model(torch.from_numpy(document)[None], output_router_logits=True)
            logits = np.stack([layer.float().numpy() for layer in result.router_logits], axis=1)
            parts.append((logits, np.stack([inputs[i] for i in range(len(layers))], axis=1),
                          np.stack([outputs[i] for i in range(len(layers))], axis=1)))
    for handle in handles:
        handle.remove()
    logits, seen, given = (np.concatenate(part) for part in zip(*parts))
    experts = top(logits, model.config.num_experts_per_tok).astype(np.uint8)
    positions = np.concatenate([np.arange(len(document)) for document in documents])
    return Routing(np.concatenate(documents).astype(np.int32), positions.astype(np.int32), experts, logits, seen, given)


def routers(model):
    layers = model.model.layers
    weights = np.stack([layer.block_sparse_moe.gate.weight.detach().float().numpy() for layer in layers])
    norms = np.stack([layer.post_attention_layernorm.weight.detach().float().numpy() for layer in layers])
    return Routers(weights, norms, model.config.rms_norm_eps)


def top(scores, k):
    """The k best of the last axis, best first; of equals the first."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k]


def recall(predicted, chosen):
    """The part of the chosen experts (slots) that were among the predicted ones."""
    return float((chosen[..., :, None] == predicted[..., None, :]).any(-1).mean())


def lookahead(routing, routers, layer, ahead):
    """The router `ahead` layers on, applied to what this layer's router sees: known before this layer's experts run."""
    return routing.inputs[:, layer] @ routers.weights[layer + ahead].T


def lookahead_rescaled(routing, routers, layer, ahead):
    """The same with the scales of that router's own norm in place of this layer's."""
    scale = routers.norms[layer + ahead] / routers.norms[layer]
    return (routing.inputs[:, layer] * scale) @ routers.weights[layer + ahead].T


def lookahead_output(routing, routers, layer, ahead):
    """That router and its norm, applied to this layer's output: known only after this layer's experts ran."""
    output = routing.outputs[:, layer]
    normed = output / np.sqrt((output ** 2).mean(-1, keepdims=True) + routers.epsilon) * routers.norms[layer + ahead]
    return normed @ routers.weights[layer + ahead].T


LOOKAHEADS = {"lookahead": lookahead, "lookahead, rescaled": lookahead_rescaled,
              "lookahead from output": lookahead_output}


def measure(train, held_out, routers):
    """Per layer of the held-out routing: load, repetition, and the recall of predictors that learn nothing or counts.

    Recalls are for the layer that is predicted; a layer that a predictor cannot reach has None.
    """
    layers, experts = held_out.logits.shape[1:]
    inside = held_out.positions > 0
    measures = {}

    def of_layers(name, value):
        measures[name] = [value(layer) for layer in range(layers)]

    def counts(routing, layer):
        return np.bincount(routing.experts[:, layer].ravel(), minlength=experts)

    def entropy(layer):
        share = counts(held_out, layer) / held_out.experts[:, layer].size
        return float(-(share[share > 0] * np.log2(share[share > 0])).sum())

    def repetition(layer):
        chosen = held_out.experts[:, layer]
        return recall(chosen[:-1][inside[1:]], chosen[1:][inside[1:]])

    of_layers("entropy, bits", entropy)
    of_layers("largest share", lambda layer: float(counts(held_out, layer).max() / held_out.experts[:, layer].size))
    of_layers("previous token @2", repetition)
    for width in WIDTHS:
        of_layers(f"popularity @{width}", lambda layer: recall(top(counts(train, layer), width),
                                                               held_out.experts[:, layer]))
    for ahead in HORIZONS:
        for width in WIDTHS:
            of_layers(f"transition, {ahead} ahead @{width}", lambda layer: transition(
                train, held_out, layer - ahead, ahead, width) if layer >= ahead else None)
    for name, scores in LOOKAHEADS.items():
        for ahead in HORIZONS:
            for width in WIDTHS:
                of_layers(f"{name}, {ahead} ahead @{width}", lambda layer: recall(
                    top(scores(held_out, routers, layer - ahead, ahead), width), held_out.experts[:, layer])
                    if layer >= ahead else None)
    return measures


def transition(train, held_out, layer, ahead, width):
    """Counts of the experts that followed each expert, summed over the chosen ones."""
    experts = train.logits.shape[-1]
    table = np.ones((experts, experts))
    for slot in range(train.experts.shape[-1]):
        for later in range(train.experts.shape[-1]):
            np.add.at(table, (train.experts[:, layer, slot], train.experts[:, layer + ahead, later]), 1)
    table /= table.sum(-1, keepdims=True)
    return recall(top(table[held_out.experts[:, layer]].sum(1), width), held_out.experts[:, layer + ahead])


def table(measures):
    """The measures as lines of text, with the mean over the layers that have a value."""
    layers = len(next(iter(measures.values())))
    lines = [f"{'layer':36}" + "".join(f"{layer:7}" for layer in range(layers)) + "   mean"]
    for name, values in measures.items():
        cells = "".join(f"{'-':>7}" if value is None else f"{value:7.3f}" for value in values)
        lines.append(f"{name:36}{cells}{np.mean([v for v in values if v is not None]):7.3f}")
    return "\n".join(lines)
