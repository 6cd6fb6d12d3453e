# SPDX-License-Identifier: MIT
"""Small checkpoints with random weights as SchNetPack and the DTU programs write them, and what those programs
compute from them, in float64 numpy, in their own orders of rows."""

from collections import OrderedDict

import numpy as np
from painn_numpy import edges, silu
from torch_files import function, stand_in

SILU = function("torch.nn.functional", "silu")

_MODULES = {
    "NeuralNetworkPotential": "schnetpack.model.base",
    "PaiNN": "schnetpack.representation.painn",
    "PaiNNInteraction": "schnetpack.representation.painn",
    "PaiNNMixing": "schnetpack.representation.painn",
    "SchNet": "schnetpack.representation.schnet",
    "GaussianRBF": "schnetpack.nn.radial",
    "GaussianRBFCentered": "schnetpack.nn.radial",
    "BesselRBF": "schnetpack.nn.radial",
    "CosineCutoff": "schnetpack.nn.cutoff",
    "MollifierCutoff": "schnetpack.nn.cutoff",
    "Dense": "schnetpack.nn.base",
    "ElectronicEmbedding": "schnetpack.nn.embedding",
    "Embedding": "torch.nn.modules.sparse",
    "ModuleList": "torch.nn.modules.container",
    "Sequential": "torch.nn.modules.container",
    "Identity": "torch.nn.modules.linear",
    "PairwiseDistances": "schnetpack.atomistic.distances",
    "Atomwise": "schnetpack.atomistic.atomwise",
    "DipoleMoment": "schnetpack.atomistic.atomwise",
    "Forces": "schnetpack.atomistic.response",
    "CastTo64": "schnetpack.transform.casting",
    "AddOffsets": "schnetpack.transform.atomistic",
    "ScaleProperty": "schnetpack.transform.atomistic",
}


def module(kind, children=None, parameters=None, buffers=None, **attributes):
    """A torch module of that class, with the attributes that pickling a module stores."""
    made = stand_in(_MODULES[kind], kind)()
    made.__dict__.update(
        training=True,
        _parameters=dict(parameters or {}),
        _buffers=dict(buffers or {}),
        _non_persistent_buffers_set=set(),
        _forward_hooks=OrderedDict(),
        _modules=dict(children or {}),
        **attributes,
    )
    return made


def listed(kind, modules):
    return module(kind, {str(k): m for k, m in enumerate(modules)})


def dense(rng, n_out, n_in, activation=None, bias=True, dtype="f4"):
    parameters = {"weight": (rng.normal(size=(n_out, n_in)) / np.sqrt(n_in)).astype(dtype)}
    parameters["bias"] = (0.3 * rng.normal(size=n_out)).astype(dtype) if bias else None
    children = {} if activation else {"activation": module("Identity")}
    made = module("Dense", children, parameters, in_features=n_in, out_features=n_out,
                  weight_init=function("torch.nn.init", "xavier_uniform_"))
    if activation:
        made.activation = activation
    return made


def schnetpack_model(seed=0, F=6, L=2, K=5, cutoff=4.0, radial="GaussianRBF", trainable=False, share_filters=False,
                     share_interactions=False, mean=None, atomref=None, activation=SILU, epsilon=1e-8, dtype="f4"):
    """A NeuralNetworkPotential; single parts may be exchanged by the tests afterwards."""
    rng = np.random.default_rng(seed)

    def network(n_in, n_hidden, n_out):
        layers = [dense(rng, n_hidden, n_in, activation, dtype=dtype), dense(rng, n_out, n_hidden, dtype=dtype)]
        return listed("Sequential", layers)

    def interaction():
        return module("PaiNNInteraction", {"interatomic_context_net": network(F, F, 3 * F)}, n_atom_basis=F)

    def mixing():
        children = {
            "intraatomic_context_net": network(2 * F, F, 3 * F),
            "mu_channel_mix": dense(rng, 2 * F, F, bias=False, dtype=dtype),
        }
        return module("PaiNNMixing", children, n_atom_basis=F, epsilon=epsilon)

    def replicated(make):
        return listed("ModuleList", [make()] * L if share_interactions else [make() for _ in range(L)])

    if radial == "BesselRBF":
        basis = module(radial, buffers={"freqs": (np.arange(1, K + 1) * np.pi / cutoff).astype(dtype)}, n_rbf=K)
    else:
        offsets = np.linspace(0, cutoff, K) if radial == "GaussianRBF" else np.zeros(K)
        widths = np.full(K, cutoff / (K - 1)) if radial == "GaussianRBF" else np.linspace(1, cutoff, K)
        if trainable:
            offsets, widths = offsets + 0.1 * rng.normal(size=K), widths * rng.uniform(0.8, 1.2, K)
        values = {"offsets": offsets.astype(dtype), "widths": widths.astype(dtype)}
        basis = module(radial, None, values if trainable else None, None if trainable else values, n_rbf=K)
    representation = module(
        "PaiNN",
        {
            "cutoff_fn": module("CosineCutoff", buffers={"cutoff": np.array([cutoff], dtype)}),
            "radial_basis": basis,
            "embedding": module("Embedding", parameters={"weight": rng.normal(size=(100, F)).astype(dtype)},
                                padding_idx=None, max_norm=None),
            "electronic_embeddings": module("ModuleList"),
            "filter_net": dense(rng, 3 * F * (1 if share_filters else L), K, dtype=dtype),
            "interactions": replicated(interaction),
            "mixing": replicated(mixing),
        },
        n_atom_basis=F, n_interactions=L, share_filters=share_filters,
    )
    offsets = module(
        "AddOffsets",
        buffers={"mean": np.array(mean or 0.0), "atomref": np.zeros(100, "f4") if atomref is None else atomref},
        _property="energy", add_mean=mean is not None, add_atomrefs=atomref is not None, is_extensive=True,
    )
    return module(
        "NeuralNetworkPotential",
        {
            "postprocessors": listed("ModuleList", [module("CastTo64", type_map={"float32": "float64"}), offsets]),
            "representation": representation,
            "input_modules": listed("ModuleList", [module("PairwiseDistances")]),
            "output_modules": listed("ModuleList", [
                module("Atomwise", {"outnet": network(F, F // 2, 1)}, output_key="energy", aggregation_mode="sum",
                       n_out=1),
                module("Forces", energy_key="energy", force_key="forces", calc_forces=True),
            ]),
        },
        input_dtype_str="float32", do_postprocessing=True, spk_version="2.0.4",
    )


def part(root, place):
    """The module at a place such as 'representation.mixing.0'."""
    for name in place.split("."):
        root = root._modules[name]
    return root


def schnetpack_energy(root, positions, numbers):
    """The energy that SchNetPack computes for a molecule, in the checkpoint's unit."""
    painn = part(root, "representation")
    F, L = painn.n_atom_basis, painn.n_interactions
    cutoff = float(part(painn, "cutoff_fn")._buffers["cutoff"][0])
    i, j, r = edges(positions, np.zeros((3, 3)), (0, 0, 0), cutoff)
    d = np.linalg.norm(r, axis=1)[:, None]
    direction = r / d
    basis = part(painn, "radial_basis")
    stored = {k: np.asarray(v, float) for k, v in {**basis._buffers, **basis._parameters}.items()}
    if "freqs" in stored:
        phi = np.sin(d * stored["freqs"]) / d
    else:
        phi = np.exp(-0.5 / stored["widths"] ** 2 * (d - stored["offsets"]) ** 2)

    def apply(layer, x):
        bias = layer._parameters["bias"]
        y = x @ np.asarray(layer._parameters["weight"], float).T + (0 if bias is None else np.asarray(bias, float))
        return silu(y) if getattr(layer, "activation", None) else y

    def run(sequence, x):
        for layer in sequence._modules.values():
            x = apply(layer, x)
        return x

    filters = apply(part(painn, "filter_net"), phi) * 0.5 * (np.cos(np.pi * d / cutoff) + 1)
    filters = [filters] * L if painn.share_filters else np.split(filters, L, axis=1)
    q = np.asarray(part(painn, "embedding")._parameters["weight"], float)[numbers]
    mu = np.zeros((len(numbers), 3, F))
    for layer in range(L):
        interaction, mixing = part(painn, f"interactions.{layer}"), part(painn, f"mixing.{layer}")
        x = filters[layer] * run(part(interaction, "interatomic_context_net"), q)[j]
        dq, dmuR, dmumu = np.split(x, 3, axis=1)
        new_q, new_mu = q.copy(), mu.copy()
        np.add.at(new_q, i, dq)
        np.add.at(new_mu, i, dmuR[:, None, :] * direction[:, :, None] + dmumu[:, None, :] * mu[j])
        q, mu = new_q, new_mu
        mu_V, mu_W = np.split(apply(part(mixing, "mu_channel_mix"), mu), 2, axis=2)
        norm = np.sqrt((mu_V**2).sum(axis=1) + mixing.epsilon)
        x = run(part(mixing, "intraatomic_context_net"), np.concatenate([q, norm], axis=1))
        dq, dmu, dqmu = np.split(x, 3, axis=1)
        q, mu = q + dq + dqmu * (mu_V * mu_W).sum(axis=1), mu + dmu[:, None, :] * mu_W
    energy = run(part(root, "output_modules.0.outnet"), q).sum()
    offsets = part(root, "postprocessors.1")
    if offsets.add_mean:
        energy += float(offsets._buffers["mean"]) * len(numbers)
    if offsets.add_atomrefs:
        energy += np.asarray(offsets._buffers["atomref"], float)[numbers].sum()
    return energy


def dtu_state(seed=0, F=6, L=2, K=5, mean=None, deviation=None, dtype="f4"):
    """A state dictionary as painn-sli has it."""
    rng = np.random.default_rng(seed)
    state = OrderedDict(
        normalization=np.array(mean is not None),
        atomwise_normalization=np.array(True),
        normalize_stddev=np.array(deviation if deviation is not None else 1.0, dtype),
        normalize_mean=np.array(mean if mean is not None else 0.0, dtype),
    )
    state["atom_embedding.weight"] = rng.normal(size=(119, F)).astype(dtype)

    def linear(name, n_out, n_in):
        state[name + ".weight"] = (rng.normal(size=(n_out, n_in)) / np.sqrt(n_in)).astype(dtype)
        state[name + ".bias"] = (0.3 * rng.normal(size=n_out)).astype(dtype)

    for layer in range(L):
        linear(f"message_layers.{layer}.scalar_message_mlp.0", F, F)
        linear(f"message_layers.{layer}.scalar_message_mlp.2", 3 * F, F)
        linear(f"message_layers.{layer}.filter_layer", 3 * F, K)
    for layer in range(L):
        linear(f"update_layers.{layer}.update_U", F, F)
        linear(f"update_layers.{layer}.update_V", F, F)
        linear(f"update_layers.{layer}.update_mlp.0", F, 2 * F)
        linear(f"update_layers.{layer}.update_mlp.2", 3 * F, F)
    linear("readout_mlp.0", F, F)
    linear("readout_mlp.2", 1, F)
    return state


def dtu_checkpoint(state, numbers=(1, 8), cutoff=4.0, first=0, **extra):
    """What painn-sli's training saves: the state, Adam's moments of the embedding rows that had gradients, ..."""
    moment = np.zeros_like(state["atom_embedding.weight"])
    moment[list(numbers)] = 1e-6
    adam = {"step": 10, "exp_avg": 0 * moment, "exp_avg_sq": moment}
    optimizer = {"state": {first: adam}, "param_groups": [{"lr": 1e-4}]}
    return {"model": state, "optimizer": optimizer, "scheduler": {"last_epoch": 3}, "step": 3, "num_layer": 2,
            "node_size": 6, "cutoff": cutoff, **extra}


def dtu_energy(state, positions, numbers, cutoff=4.0):
    """The energy that painn-sli computes for a molecule, before its normalisation."""
    w = {name: np.asarray(array, float) for name, array in state.items()}
    edge_i, edge_j, diff = edges(positions, np.zeros((3, 3)), (0, 0, 0), cutoff)
    dist = np.linalg.norm(diff, axis=1)[:, None]

    def linear(name, x):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def mlp(name, x):
        return linear(name + ".2", silu(linear(name + ".0", x)))

    n_radial = w["message_layers.0.filter_layer.weight"].shape[1]
    sinc = np.sin(dist * np.arange(1, n_radial + 1) * np.pi / cutoff) / dist
    window = 0.5 * (np.cos(np.pi * dist / cutoff) + 1)
    scalar = w["atom_embedding.weight"][numbers]
    vector = np.zeros((len(numbers), 3, scalar.shape[1]))
    layer = 0
    while f"message_layers.{layer}.filter_layer.weight" in w:
        message, update = f"message_layers.{layer}.", f"update_layers.{layer}."
        out = linear(message + "filter_layer", sinc) * window * mlp(message + "scalar_message_mlp", scalar)[edge_j]
        gate_state, gate_edge, message_scalar = np.split(out, 3, axis=1)
        new_scalar, new_vector = scalar.copy(), vector.copy()
        np.add.at(new_scalar, edge_i, message_scalar)
        np.add.at(new_vector, edge_i,
                  vector[edge_j] * gate_state[:, None, :] + gate_edge[:, None, :] * (diff / dist)[:, :, None])
        scalar, vector = new_scalar, new_vector
        Uv, Vv = linear(update + "update_U", vector), linear(update + "update_V", vector)
        out = mlp(update + "update_mlp", np.concatenate([np.linalg.norm(Vv, axis=1), scalar], axis=1))
        a_vv, a_sv, a_ss = np.split(out, 3, axis=1)
        scalar, vector = scalar + a_sv * (Uv * Vv).sum(axis=1) + a_ss, vector + a_vv[:, None, :] * Uv
        layer += 1
    return mlp("readout_mlp", scalar).sum()
