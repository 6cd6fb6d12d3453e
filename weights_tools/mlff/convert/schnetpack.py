# SPDX-License-Identifier: MIT
"""SchNetPack 2.x: a whole pickled NeuralNetworkPotential with a PaiNN representation.

Every module is a Record with `_modules`, `_parameters` and `_buffers`, whatever the version; other attributes differ
from version to version and are read only where they matter. SchNetPack's row orders are the model file's own.
"""

from __future__ import annotations

import os

import numpy as np

from ..model_file import ModelFile
from . import archive
from .source import Conversion, rows_of_elements
from .torch_module import Module

# Classes that are read, and those that are read far enough to be refused with their name and place.
_RECORDS = frozenset(
    """
    NeuralNetworkPotential AtomisticModel PaiNN PaiNNInteraction PaiNNMixing
    GaussianRBF GaussianRBFCentered BesselRBF CosineCutoff Dense Embedding ModuleList Sequential Identity SiLU
    PairwiseDistances Atomwise Forces Strain CastTo32 CastTo64 CastMap AddOffsets
    SchNet SchNetInteraction SO3net FieldSchNet NuclearEmbedding ElectronicEmbedding ResidualStack ResidualMLP
    ResidualBlock MollifierCutoff SwitchFunction ShiftedSoftplus Softplus Tanh ReLU GELU Linear Dropout
    DipoleMoment Polarizability Response Aggregation EnergyCoulomb EnergyEwald ZBLRepulsionEnergy StaticExternalFields
    FilterShortRange ScaleProperty RemoveOffsets SubtractCenterOfMass SubtractCenterOfGeometry MatScipyNeighborList
    ASENeighborList TorchNeighborList
    """.split()
)
_NAMES = frozenset("silu shifted_softplus softplus tanh relu gelu xavier_uniform_ zeros_ orthogonal_".split())
VOCABULARY = archive.Vocabulary(packages=("schnetpack", "torch"), records=_RECORDS, names=_NAMES)


def convert(path: str | os.PathLike, conversion: Conversion) -> ModelFile:
    """Reads the checkpoint at path; the model has the elements, units and texts of conversion."""
    root = Module(archive.load(path, VOCABULARY), "", conversion, "the whole model that SchNetPack saves as best_model")
    if root.kind != "NeuralNetworkPotential":
        raise conversion.fail(f"holds {root.article_kind}, expected a NeuralNetworkPotential")
    if conversion.elements is None:
        raise conversion.fail("does not record which elements were trained, give them with --elements")
    painn = root.child("representation").expect("PaiNN")
    readout, energy_key = _readout(root)
    shift, element_energies = _postprocessors(root, energy_key, conversion)
    tensors: dict[str, np.ndarray] = {}
    radial = _radial(painn, tensors)
    _embedding(painn, tensors, conversion)
    n_features = tensors["embedding.weight"].shape[1]
    n_interactions = _interactions(painn, tensors)
    _readout_layers(readout, tensors)
    cutoff = painn.child("cutoff_fn").expect("CosineCutoff").tensor("cutoff")
    return ModelFile(
        features=n_features,
        interactions=n_interactions,
        radial=radial,
        radial_functions=tensors["message.0.filter.weight"].shape[1],
        cutoff=_single_number(cutoff),
        epsilon=_epsilon(painn),
        vector_bias=False,
        readout_features=tensors["readout.0.weight"].shape[0],
        elements=list(conversion.elements),
        **conversion.energies(1.0, shift, element_energies),
        provenance=conversion.provenance,
        licence=conversion.licence,
        tensors=tensors,
    )


def _single_number(array: np.ndarray) -> float:
    return float(array.reshape(-1)[0]) if array.size == 1 else float("nan")


def _dense(layer: Module, name: str, tensors: dict, activation: bool, bias: bool = True) -> None:
    """Copies a Dense layer to `name`.weight and .bias after making sure of its activation."""
    layer.expect("Dense")
    found = layer.activation()
    if activation and found not in ("silu", "SiLU"):
        raise layer.fail(f"has the activation '{found or 'none'}', expected silu")
    if not activation and found:
        raise layer.fail(f"has the activation '{found}', expected none")
    tensors[name + ".weight"] = layer.tensor("weight")
    if bias:
        tensors[name + ".bias"] = layer.tensor("bias")
    elif layer.stored("bias") is not None:
        raise layer.fail("has a bias, expected none")


def _dense_pair(network: Module, name: str, tensors: dict) -> None:
    """Dense(silu), Dense(no activation) to `name`.0 and `name`.1."""
    layers = network.expect("Sequential").children()
    if len(layers) != 2:
        raise network.fail(f"has {len(layers)} layers, expected 2")
    _dense(layers[0], name + ".0", tensors, activation=True)
    _dense(layers[1], name + ".1", tensors, activation=False)


def _radial(painn: Module, tensors: dict) -> str:
    basis = painn.child("radial_basis").expect("GaussianRBF", "GaussianRBFCentered", "BesselRBF")
    if basis.kind == "BesselRBF":
        tensors["radial.frequency"] = basis.tensor("freqs")
        return "bessel"
    # as stored: they differ in the last bit from file to file, and may have been trained
    tensors["radial.offset"] = basis.tensor("offsets")
    tensors["radial.width"] = np.abs(basis.tensor("widths"))  # only its square is used
    return "gaussian"


def _embedding(painn: Module, tensors: dict, conversion: Conversion) -> None:
    if painn.has_child("electronic_embeddings"):
        embeddings = painn.child("electronic_embeddings").children()
        if embeddings:
            raise embeddings[0].fail(f"is {embeddings[0].article_kind}: electronic embeddings are not supported")
    embedding = painn.child("embedding").expect("Embedding")
    if embedding.stored("max_norm") is not None:
        raise embedding.fail("renormalises its rows (max_norm), which is not supported")
    table = embedding.tensor("weight")
    if table.ndim != 2:
        raise embedding.fail(f"has the shape {list(table.shape)}, expected two dimensions")
    tensors["embedding.weight"] = rows_of_elements(conversion, table, "embedding")


def _interactions(painn: Module, tensors: dict) -> int:
    """Message and update layers; returns their number. Shared layers are written out for each interaction."""
    messages = painn.child("interactions").children()
    updates = painn.child("mixing").children()
    if not messages or len(messages) != len(updates):
        raise painn.fail(f"has {len(messages)} interactions and {len(updates)} mixing layers, expected as many of each")
    _filters(painn, len(messages), tensors)
    for number, (message, update) in enumerate(zip(messages, updates)):
        message.expect("PaiNNInteraction")
        update.expect("PaiNNMixing")
        _dense_pair(message.child("interatomic_context_net"), f"message.{number}.context", tensors)
        _dense_pair(update.child("intraatomic_context_net"), f"update.{number}.dense", tensors)
        mix: dict[str, np.ndarray] = {}
        _dense(update.child("mu_channel_mix"), "mix", mix, activation=False, bias=False)
        both = mix["mix.weight"]  # [2F, F]: V, then U
        if both.ndim != 2 or both.shape[0] % 2:
            raise update.fail(f"has a vector mixing of shape {list(both.shape)}, expected [2F, F]")
        tensors[f"update.{number}.V.weight"], tensors[f"update.{number}.U.weight"] = np.split(both, 2)
    return len(messages)


def _filters(painn: Module, n_interactions: int, tensors: dict) -> None:
    """One Dense layer has the filters of all interactions, [L * 3F, K], or, shared, of one, [3F, K]."""
    n_features = tensors["embedding.weight"].shape[1]
    layer: dict[str, np.ndarray] = {}
    _dense(painn.child("filter_net"), "filter", layer, activation=False)
    weight, bias = layer["filter.weight"], layer["filter.bias"]
    shared = painn.stored("share_filters") is True
    n_blocks = 1 if shared else n_interactions
    if weight.ndim != 2 or weight.shape[0] != n_blocks * 3 * n_features or bias.shape != weight.shape[:1]:
        raise painn.child("filter_net").fail(
            f"has the shapes {list(weight.shape)} and {list(bias.shape)}, expected {n_blocks * 3 * n_features} rows"
        )
    for number in range(n_interactions):
        block = slice(0, None) if shared else slice(number * 3 * n_features, (number + 1) * 3 * n_features)
        tensors[f"message.{number}.filter.weight"] = weight[block]
        tensors[f"message.{number}.filter.bias"] = bias[block]


def _epsilon(painn: Module) -> float:
    values = {layer.stored("epsilon") for layer in painn.child("mixing").children()}
    if len(values) != 1 or not isinstance(next(iter(values)), (int, float)):
        raise painn.fail("has mixing layers without one common number 'epsilon'")
    return float(values.pop())


def _readout(root: Module) -> tuple[Module, str]:
    """The module that gives the energy, and the key it gives it under."""
    if root.has_child("input_modules"):
        for module in root.child("input_modules").children():
            module.expect("PairwiseDistances", "Strain")
    atomwise = []
    for module in root.child("output_modules").children():
        if module.expect("Atomwise", "Forces").kind == "Atomwise":
            atomwise.append(module)
    if len(atomwise) != 1:
        raise root.child("output_modules").fail(f"has {len(atomwise)} Atomwise modules, expected one (the energy)")
    (readout,) = atomwise
    mode = readout.stored("aggregation_mode")
    if mode != "sum":
        raise readout.fail(f"has the aggregation mode '{mode}', expected 'sum'")
    for module in root.child("output_modules").children():
        if module.kind == "Forces" and module.stored("energy_key") != readout.stored("output_key"):
            raise module.fail(
                f"differentiates '{module.stored('energy_key')}', but the energy is '{readout.stored('output_key')}'"
            )
    return readout, str(readout.stored("output_key"))


def _readout_layers(readout: Module, tensors: dict) -> None:
    _dense_pair(readout.child("outnet"), "readout", tensors)
    if tensors["readout.1.weight"].shape[0] != 1:
        raise readout.fail(f"has {tensors['readout.1.weight'].shape[0]} outputs an atom, expected 1")


def _postprocessors(root: Module, energy_key: str, conversion: Conversion) -> tuple[float, np.ndarray]:
    """Mean energy an atom and energies of the elements that are added after the network, in the file's unit."""
    shift, element_energies = 0.0, np.zeros(len(conversion.elements))
    modules = root.child("postprocessors").children() if root.has_child("postprocessors") else []
    if root.stored("do_postprocessing") is False and modules:
        conversion.warnings.append("the checkpoint switches its postprocessors off, so no offsets are added")
        modules = []
    for module in modules:
        if module.expect("AddOffsets", "CastTo64", "CastTo32", "CastMap").kind != "AddOffsets":
            continue
        property_name = module.stored("_property")
        if property_name != energy_key:
            raise module.fail(f"adds to '{property_name}', expected the energy ('{energy_key}')")
        if module.stored("is_extensive") is False:
            raise module.fail("adds an offset that does not grow with the number of atoms, which is not supported")
        if module.stored("add_mean"):
            shift += _single_number(module.tensor("mean"))
        if module.stored("add_atomrefs"):
            table = module.tensor("atomref").reshape(-1)
            element_energies += rows_of_elements(conversion, table, "table of atomic energies")
    return shift, element_energies
