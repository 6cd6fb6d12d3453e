# SPDX-License-Identifier: MIT
"""Small checkpoints with random weights as nff (Neural Force Field) writes them, and what nff computes from them, in
float64 numpy, in its own order of rows."""

from collections import OrderedDict
from functools import partial

import numpy as np
from painn_numpy import edges, silu
from torch_files import function, stand_in

_MODULES = {
    "Painn": "nff.nn.models.painn",
    "PainnDiabat": "nff.nn.models.painn",
    **dict.fromkeys(("EmbeddingBlock", "MessageBlock", "InvariantMessage", "InvariantDense", "DistanceEmbed",
                     "UpdateBlock", "ReadoutBlock"), "nff.nn.modules.painn"),
    **dict.fromkeys(("ScaleShift", "SumPool", "MeanPool"), "nff.nn.modules.schnet"),
    **dict.fromkeys(("Dense", "PainnRadialBasis", "CosineEnvelope"), "nff.nn.layers"),
    **dict.fromkeys(("Swish", "LearnableSwish", "shifted_softplus"), "nff.nn.activations"),
    "Embedding": "torch.nn.modules.sparse",
    "Linear": "torch.nn.modules.linear",
    "Dropout": "torch.nn.modules.dropout",
    **dict.fromkeys(("ModuleList", "ModuleDict", "Sequential"), "torch.nn.modules.container"),
}


def module(kind, children=None, parameters=None, **attributes):
    """A torch module of that class, with the attributes that pickling a module stores."""
    made = stand_in(_MODULES[kind], kind)()
    made.__dict__.update(training=False, _parameters=OrderedDict(parameters or {}), _buffers=OrderedDict(),
                         _modules=OrderedDict(children or {}), **attributes)
    return made


def listed(kind, modules):
    return module(kind, {str(k): m for k, m in enumerate(modules)})


def nff_model(seed=0, F=6, L=2, K=5, cutoff=4.0, older=False, learnable_k=None, means=None, deviations=None,
              outputs=("energy",), activation="Swish", skip=False, pool=None, dtype="f4", **attributes):
    """A Painn as torch.save stores it whole. learnable_k: n [L][K] of each layer. `older`: the layout with Linear
    layers beside their activation, and without a cutoff and a pool of the model itself."""
    rng = np.random.default_rng(seed)

    def linear(n_out, n_in, act=None, bias=True):
        parameters = {"weight": (rng.normal(size=(n_out, n_in)) / np.sqrt(n_in)).astype(dtype)}
        parameters["bias"] = (0.3 * rng.normal(size=n_out)).astype(dtype) if bias else None
        if older:
            return module("Linear", None, parameters, in_features=n_in, out_features=n_out)
        children = {"activation": module(act), "dropout": module("Dropout", p=0.0)} if act else {
            "dropout": module("Dropout", p=0.0)}
        made = module("Dense", children, parameters, in_features=n_in, out_features=n_out,
                      weight_init=function("torch.nn.init", "xavier_uniform_"))
        if not act:
            made.activation = None
        return made

    def network(n_in, n_hidden, n_out):
        if older:
            return listed("Sequential", [linear(n_hidden, n_in), module(activation), linear(n_out, n_hidden)])
        return listed("Sequential", [linear(n_hidden, n_in, activation), linear(n_out, n_hidden)])

    def message(layer):
        n = np.arange(1, K + 1).astype("f4") if learnable_k is None else np.asarray(learnable_k[layer], "f4")
        basis = module("PainnRadialBasis", None, {} if learnable_k is None else {"n": n}, cutoff=cutoff)
        if learnable_k is None:
            basis.n = n
        dense = linear(3 * F, K)
        parts = {"rbf": basis, "dense": dense} if older else {"block": listed("Sequential", [basis, dense])}
        distance = module("DistanceEmbed", {**parts, "f_cut": module("CosineEnvelope", cutoff=cutoff)})
        inner = module("InvariantDense", {"layers": network(F, F, 3 * F)})
        return module("MessageBlock", {"inv_message": module("InvariantMessage", {"inv_dense": inner,
                                                                                   "dist_embed": distance})})

    def update():
        return module("UpdateBlock", {"u_mat": linear(F, F, bias=False), "v_mat": linear(F, F, bias=False),
                                      "s_dense": network(2 * F, F, 3 * F)})

    def readout():
        networks = module("ModuleDict", {key: network(F, F // 2, 1) for key in outputs})
        shift = module("ScaleShift", means=means or {}, stddevs=deviations or {})
        return module("ReadoutBlock", {"readoutdict": networks, "scale_shift": shift})

    embedding = module("Embedding", None, {"weight": rng.normal(size=(100, F)).astype(dtype)}, padding_idx=0)
    children = {
        "embed_block": module("EmbeddingBlock", {"atom_embed": embedding}, feat_dim=F),
        "message_blocks": listed("ModuleList", [message(layer) for layer in range(L)]),
        "update_blocks": listed("ModuleList", [update() for _ in range(L)]),
        "readout_blocks": listed("ModuleList", [readout() for _ in range(L if skip else 1)]),
    }
    if not older:
        attributes = {"cutoff": cutoff, "excl_vol": False, "skip": {key: skip for key in outputs},
                      "output_keys": list(outputs), "pool_dic": {key: module(pool or "SumPool") for key in outputs},
                      **attributes}
    else:
        attributes = {"skip": skip, **attributes}
    return module("Painn", children, grad_keys=["energy_grad"], **attributes)


def state_of(root, prefix=""):
    """The state dictionary that torch makes of a model."""
    state = OrderedDict((prefix + name, value) for name, value in root._parameters.items() if value is not None)
    for name, child in root._modules.items():
        state.update(state_of(child, f"{prefix}{name}."))
    return state


def training_state(root, numbers=(1, 8)):
    """What nff's training saves as best_model.pth.tar."""
    state = state_of(root)
    moment = np.zeros_like(state["embed_block.atom_embed.weight"])
    moment[list(numbers)] = 1e-6
    optimizer = {"state": {0: {"step": 10, "exp_avg": 0 * moment, "exp_avg_sq": moment}}, "param_groups": []}
    return {"epoch": 3, "step": 40, "best_loss": 0.5, "optimizer": optimizer, "hooks": [{}], "model": state}


def with_partial(root):
    """The initialiser that nff's Dense keeps, functools.partial(constant_, val=0.0), as a pickle has it."""
    constant = function("torch.nn.init", "constant_")
    made = partial(constant, val=0.0)
    for layer in root._modules["message_blocks"]._modules["0"]._modules["inv_message"]._modules["inv_dense"]._modules[
            "layers"]._modules.values():
        layer.bias_init = made
    return root


def nff_energy(root, positions, numbers, cutoff=4.0, key="energy", mean=0.0, deviation=1.0):
    """The energy that nff computes for a molecule, in the checkpoint's unit."""
    w = {name: np.asarray(array, float) for name, array in state_of(root).items()}
    i, j, r = edges(positions, np.zeros((3, 3)), (0, 0, 0), cutoff)

    def norm(x, axis):
        return np.sqrt((x**2 + 1e-15).sum(axis=axis))

    dist = norm(r, 1)[:, None]
    unit = r / dist

    def linear(name, x):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    def network(name, x):
        last = "1" if f"{name}.1.weight" in w else "2"
        return linear(f"{name}.{last}", silu(linear(f"{name}.0", x)))

    s = w["embed_block.atom_embed.weight"][numbers]
    v = np.zeros((*s.shape, 3))  # nff keeps x, y, z last
    layer = 0
    while f"update_blocks.{layer}.u_mat.weight" in w:
        message, update = f"message_blocks.{layer}.inv_message.", f"update_blocks.{layer}."
        embed = message + "dist_embed."
        filters = embed + ("block.1" if embed + "block.1.weight" in w else "dense")
        n = w.get(embed + "block.0.n", w.get(embed + "rbf.n", np.arange(1, w[filters + ".weight"].shape[1] + 1)))
        window = 0.5 * (np.cos(np.pi * dist / cutoff) + 1)
        radial = np.sin(n * np.pi / cutoff * dist) / dist
        inv_out = network(message + "inv_dense.layers", s)[j] * linear(filters, radial) * window
        split_0, split_1, split_2 = np.split(inv_out, 3, axis=1)
        new_s, new_v = s.copy(), v.copy()
        np.add.at(new_s, i, split_1)
        np.add.at(new_v, i, split_2[:, :, None] * unit[:, None, :] + split_0[:, :, None] * v[j])
        s, v = new_s, new_v
        u_v = np.einsum("gf,afx->agx", w[update + "u_mat.weight"], v)
        v_v = np.einsum("gf,afx->agx", w[update + "v_mat.weight"], v)
        a_vv, a_sv, a_ss = np.split(network(update + "s_dense", np.hstack([s, norm(v_v, 2)])), 3, axis=1)
        s, v = s + (u_v * v_v).sum(-1) * a_sv + a_ss, v + u_v * a_vv[:, :, None]
        layer += 1
    return (network(f"readout_blocks.0.readoutdict.{key}", s) * deviation + mean).sum()
