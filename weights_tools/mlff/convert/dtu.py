# SPDX-License-Identifier: MIT
"""PaiNN of the Technical University of Denmark: cPaiNN, painn-sli, curator, as state dictionaries.

A file is {"model": state dictionary, "cutoff": .., "optimizer": .., ...}, {"state_dict": ..} or the dictionary itself.
The edge vector points from the receiving atom i to its neighbour j in all three, as in the model file, so the
vector biases keep their sign. (With the other direction every vector would change sign, and with it those biases.)

Rows of 3F blocks: message (v, R, s), update (v, sv, s); the update's input is [n, s]. Norms have no epsilon.
"""

from __future__ import annotations

import os
import re

import numpy as np

from ..model_file import ModelFile
from . import archive
from .source import MESSAGE_ORDER, UPDATE_ORDER, Conversion, rows_of_elements, swap_halves
from .state import StateDictionary, trained_elements
from .unpickle import Record, Tensor

# Lightning checkpoints of curator hold whole objects beside the dictionary; they are passed over as inert records.
# So are bound methods, which a pickle stores as a call of getattr: here that is a record of its arguments.
_RECORDS = frozenset(
    """
    NeuralNetworkPotential CallbackModuleList PainnModel PainnMessage PainnUpdate SineBasis CosineCutoff
    PairwiseDistance BatchNeighborList Strain AtomwiseReduce GradientOutput GlobalRescaleShift PerSpeciesRescaleShift
    ModelOutput TypeMapper Linear Sequential SiLU Embedding ModuleList MSELoss L1Loss HuberLoss Identity
    MeanAbsoluteError MeanSquaredError partial Adam AdamW ReduceLROnPlateau LambdaLR ExponentialLR
    PerAtomMAE PerAtomRMSE DictConfig ListConfig ContainerMetadata Metadata AnyNode StringNode FloatNode IntegerNode
    BooleanNode Irreps Irrep _MulIr getattr
    """.split()
)
_PACKAGES = ("curator", "torch", "omegaconf", "torchmetrics", "functools", "typing", "e3nn", "__builtin__", "builtins")
VOCABULARY = archive.Vocabulary(packages=_PACKAGES, records=_RECORDS, names=frozenset({"Any"}))

_EMBEDDING = "atom_embedding.weight"
_UNRELATED = re.compile(r"linear(_magmom|_bader_charge)?\.(weight|bias)\Z")  # other outputs of cPaiNN


def convert(path: str | os.PathLike, conversion: Conversion) -> ModelFile:
    """Reads the checkpoint at path; elements come from the optimizer where conversion has none."""
    content = archive.load(path, VOCABULARY)
    state = _State.find(content, conversion)
    embedding = state.take(_EMBEDDING)
    if conversion.elements is None:
        conversion.elements = trained_elements(content, embedding.shape, conversion)
    cutoff = _cutoff(content, conversion)

    tensors: dict[str, np.ndarray] = {}
    tensors["embedding.weight"] = rows_of_elements(conversion, embedding, "embedding")
    n_interactions = _interactions(state, tensors)
    state.dense("readout_mlp.0", "readout.0", tensors)
    state.dense("readout_mlp.2", "readout.1", tensors)
    n_radial = tensors["message.0.filter.weight"].shape[1]
    # double: n pi / rc has no exact single-precision value, and a file has one type for all tensors
    tensors["radial.frequency"] = np.arange(1, n_radial + 1) * np.pi / cutoff
    scale, shift, element_energies = _normalisation(state, conversion)
    state.nothing_left(_UNRELATED)
    if _representation(content) is None:  # else other classes than SineBasis and CosineCutoff would be refused
        conversion.notes.append(
            "the file does not name its radial basis and cutoff function; sin(n pi d/rc)/d and the cosine are assumed"
        )
    return ModelFile(
        features=embedding.shape[1],
        interactions=n_interactions,
        radial="bessel",
        radial_functions=n_radial,
        cutoff=cutoff,
        epsilon=0.0,
        vector_bias=True,
        readout_features=tensors["readout.0.weight"].shape[0],
        elements=list(conversion.elements),
        **conversion.energies(scale, shift, element_energies),
        provenance=conversion.provenance,
        licence=conversion.licence,
        tensors=tensors,
    )


class _State(StateDictionary):
    """painn-sli's, cPaiNN's or curator's."""

    @classmethod
    def find(cls, content: object, conversion: Conversion) -> _State:
        """The state dictionary in what the file holds."""
        candidates = [content]
        if isinstance(content, dict):
            candidates += [content[key] for key in ("model", "state_dict", "model_state_dict") if key in content]
        for candidate in candidates:
            if not isinstance(candidate, dict) or not all(isinstance(key, str) for key in candidate):
                continue
            found = [key for key in candidate if key == _EMBEDDING or key.endswith("." + _EMBEDDING)]
            if len(found) == 1:
                entries = {key: value for key, value in candidate.items() if isinstance(value, Tensor)}
                return cls(entries, found[0][: -len(_EMBEDDING)], conversion)
            if found:
                raise conversion.fail(f"holds {len(found)} models ({', '.join(found)}), expected one")
        raise conversion.fail(f"holds no state dictionary with a tensor '{_EMBEDDING}', expected DTU's PaiNN")

    def number(self, key: str) -> float | None:
        """The single number (or truth value) in the tensor at the full key; None if there is none."""
        if key not in self.entries:
            return None
        self.taken.add(key)
        array = self.entries[key].array().reshape(-1)
        if array.size != 1:
            raise self.conversion.fail(f"tensor '{key}' has {array.size} elements, expected one number")
        return float(array[0])

    def keys_ending(self, name: str) -> list[str]:
        return [key for key in self.entries if key == name or key.endswith("." + name)]

    def table(self, key: str) -> np.ndarray:
        """A table by atomic number: the elements' part of it."""
        return rows_of_elements(self.conversion, self.array(key).reshape(-1), f"table '{key}'")


def _interactions(state: _State, tensors: dict) -> int:
    """Message and update layers; returns their number."""
    n_interactions = 0
    while f"{state.prefix}message_layers.{n_interactions}.filter_layer.weight" in state.entries:
        layer = n_interactions
        message, update = f"message_layers.{layer}.", f"update_layers.{layer}."
        state.dense(message + "filter_layer", f"message.{layer}.filter", tensors, ("v R s", MESSAGE_ORDER))
        state.dense(message + "scalar_message_mlp.0", f"message.{layer}.context.0", tensors)
        state.dense(message + "scalar_message_mlp.2", f"message.{layer}.context.1", tensors, ("v R s", MESSAGE_ORDER))
        state.dense(update + "update_V", f"update.{layer}.V", tensors)
        state.dense(update + "update_U", f"update.{layer}.U", tensors)
        state.dense(update + "update_mlp.0", f"update.{layer}.dense.0", tensors)
        state.dense(update + "update_mlp.2", f"update.{layer}.dense.1", tensors, ("v sv s", UPDATE_ORDER))
        name = f"update.{layer}.dense.0.weight"
        if tensors[name].shape[1] % 2:
            raise state.conversion.fail(f"'{update}update_mlp.0.weight' has an odd number of columns")
        tensors[name] = swap_halves(tensors[name])
        n_interactions += 1
    if not n_interactions:
        raise state.conversion.fail(f"tensor '{state.prefix}message_layers.0.filter_layer.weight' is missing")
    return n_interactions


def _normalisation(state: _State, conversion: Conversion) -> tuple[float, float, np.ndarray]:
    """Scale, shift an atom and element energies: painn-sli's and cPaiNN's four buffers, or curator's modules."""
    scale, shift, element_energies = 1.0, 0.0, np.zeros(len(conversion.elements))
    on = state.number(state.prefix + "normalization")
    by_atom = state.number(state.prefix + "atomwise_normalization")
    deviation = state.number(state.prefix + "normalize_stddev")
    mean = state.number(state.prefix + "normalize_mean")
    if on:
        if deviation is None or mean is None:
            raise conversion.fail("normalises energies but 'normalize_stddev' or 'normalize_mean' is missing")
        if not by_atom and mean != 0.0:
            raise conversion.fail("adds a mean energy that does not grow with the number of atoms, not supported")
        scale, shift = deviation, mean
    for key in state.keys_ending("scales") + state.keys_ending("shifts"):
        values = state.table(key)
        if key.endswith("shifts"):
            element_energies += values
        elif np.all(values == values[0]):
            scale *= float(values[0])
        else:
            raise conversion.fail(f"'{key}' scales the elements differently, which is not supported")
    for key in state.keys_ending("scale_by"):
        module = key[: -len("scale_by")]
        factor, offset = state.number(key), state.number(module + "shift_by") or 0.0
        if not state.number(module + "atomwise_normalization") and offset != 0.0:
            raise conversion.fail(f"'{module}shift_by' does not grow with the number of atoms, not supported")
        scale, shift, element_energies = scale * factor, shift * factor + offset, element_energies * factor
        with_energies = state.number(module + "shift_by_E0")
        if module + "atomic_energies" in state.entries:
            values = state.table(module + "atomic_energies")
            element_energies = element_energies + (values if with_energies else 0.0)
    return scale, shift, element_energies


def _cutoff(content: object, conversion: Conversion) -> float:
    """The cutoff radius: painn-sli and cPaiNN write it beside the dictionary, curator has it in the whole model."""
    stored = content.get("cutoff") if isinstance(content, dict) else None
    if _representation(content) is not None:
        stored = vars(_representation(content)).get("cutoff")
    if isinstance(stored, Tensor):
        stored = float(stored.array().reshape(-1)[0])
    if isinstance(stored, (int, float)) and not isinstance(stored, bool):
        if conversion.cutoff is not None and conversion.cutoff != stored:
            raise conversion.fail(f"was made with a cutoff of {stored} angstrom, but --cutoff says {conversion.cutoff}")
        return float(stored)
    if conversion.cutoff is None:
        raise conversion.fail("does not say its cutoff radius, give it with --cutoff")
    return conversion.cutoff


def _representation(content: object) -> Record | None:
    """The PaiNN module in a file that holds the whole model beside its state dictionary."""
    model = content.get("model") if isinstance(content, dict) else None
    modules = vars(model).get("_modules") if isinstance(model, Record) else None
    found = modules.get("representation") if isinstance(modules, dict) else None
    return found if isinstance(found, Record) and found.class_name == "PainnModel" else None
