# SPDX-License-Identifier: MIT
"""PaiNN of nff (Neural Force Field): a whole module (best_model) or the state of its training (best_model.pth.tar).

Both hold the same tensors under the same names. What is no tensor (cutoff, activation, skip connections, means and
deviations, pooling) is in the attributes of the whole module; beside a training state it is in nff's params.json.

Rows of 3F blocks: message (v, s, R), update (v, sv, s); the update's input is [s, n]. V and U have no bias. A norm is
sqrt(sum over x, y, z of (x^2 + 1e-15)), so the model file's epsilon is 3e-15; nff does the same to distances, which
changes nothing that a double can hold. The edge vector points from the receiving atom to its neighbour.

Newer layers are Dense with the activation inside, older ones Linear, activation, Linear: then the second layer has
the number 2 instead of 1.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass

import numpy as np

from ..model_file import ModelFile
from . import archive
from .source import MESSAGE_ORDER, UPDATE_ORDER, Conversion, rows_of_elements
from .state import StateDictionary, trained_elements
from .torch_module import Module
from .unpickle import Record, Tensor

# Classes that are read, and those that are read far enough to be refused with their name and place.
_RECORDS = frozenset(
    """
    Painn EmbeddingBlock MessageBlock InvariantMessage InvariantDense DistanceEmbed PainnRadialBasis CosineEnvelope
    UpdateBlock ReadoutBlock ScaleShift SumPool Dense Linear Embedding ModuleList ModuleDict Sequential Dropout Swish
    SiLU partial MeanPool AttentionPool MolFpPool shifted_softplus LearnableSwish Softplus Tanh ReLU LeakyReLU ELU
    Sigmoid PainnDiabat PainnAdiabat PainnTransformer PainnDispersion PainnDipole Painn_NAC_OuterProd Painn_Tuple
    Painn_Complex Painn_VecOut Painn_VecOut2 SpookyPainn SchNet DimeNet TorchMDNet NbrEmbeddingBlock
    TransformerMessageBlock InvariantTransformerMessage ExpNormalBasis Adam AdamW ReduceLROnPlateau getattr
    """.split()
)
_NAMES = frozenset("xavier_uniform_ constant_ zeros_ silu".split())
VOCABULARY = archive.Vocabulary(
    packages=("nff", "torch", "functools", "__builtin__", "builtins"), records=_RECORDS, names=_NAMES
)

_EMBEDDING = "embed_block.atom_embed.weight"
_READOUT = re.compile(r"readout_blocks\.(\d+)\.readoutdict\.([^.]+)\.")  # its layer, its output
_EPSILON = 3e-15
_ACTIVATIONS = ("Swish", "SiLU", "swish")


@dataclass
class _Settings:
    """What the tensors do not say. None: the file does not say it either."""

    cutoff: float | None
    skip: object = None  # of the readouts: a truth value, or one for each output
    means: object = None  # by output, of an atom
    deviations: object = None
    excluded_volume: object = None


def convert(path: str | os.PathLike, conversion: Conversion) -> ModelFile:
    """Reads the checkpoint at path; elements come from the optimizer where conversion has none.

    conversion.params names nff's params.json for a training state; conversion.energy_key the output that is the energy.
    """
    content = archive.load(path, VOCABULARY)
    if isinstance(content, Record):
        module = Module(content, "", conversion, "the whole model that nff saves as best_model").expect("Painn")
        entries = dict(_tensors_of(module, ""))
        settings = _settings_of_module(module, conversion)
    else:
        entries = _training_state(content, conversion)
        settings = _settings_beside(conversion)
    state = StateDictionary(entries, "", conversion)
    cutoff = _cutoff(settings, conversion)
    scale, shift = _scale_and_shift(settings, conversion)
    _refuse_what_adds_to_the_energy(settings, state, conversion)

    embedding = state.take(_EMBEDDING)
    if conversion.elements is None:
        conversion.elements = trained_elements(content, embedding.shape, conversion)
    tensors = {"embedding.weight": rows_of_elements(conversion, embedding, "embedding")}
    n_interactions = _interactions(state, tensors)
    tensors["radial.frequency"] = _frequencies(state, content, n_interactions, tensors, cutoff)
    _readout(state, tensors, conversion)
    state.nothing_left()
    return ModelFile(
        features=embedding.shape[1],
        interactions=n_interactions,
        radial="bessel",
        radial_functions=tensors["message.0.filter.weight"].shape[1],
        cutoff=cutoff,
        epsilon=_EPSILON,
        vector_bias=False,
        readout_features=tensors["readout.0.weight"].shape[0],
        elements=list(conversion.elements),
        **conversion.energies(scale, shift, np.zeros(len(conversion.elements))),
        provenance=conversion.provenance,
        licence=conversion.licence,
        tensors=tensors,
    )


def _tensors_of(module: Module, prefix: str):
    """(name, tensor) of all parameters and buffers, named as in torch's state dictionaries."""
    for table in ("_parameters", "_buffers"):
        for name, tensor in (module.attributes.get(table) or {}).items():
            if isinstance(tensor, Tensor):
                yield prefix + str(name), tensor
    for child in module.children():
        yield from _tensors_of(child, f"{child.place}.")


def _training_state(content: object, conversion: Conversion) -> dict[str, Tensor]:
    """The state dictionary under "model", or the dictionary itself."""
    candidates = [content, content.get("model")] if isinstance(content, dict) else []
    for candidate in candidates:
        if isinstance(candidate, dict) and _EMBEDDING in candidate:
            return {str(key): value for key, value in candidate.items() if isinstance(value, Tensor)}
    raise conversion.fail(
        f"holds neither a whole model nor a state dictionary with '{_EMBEDDING}', expected nff's PaiNN"
    )


# What is no tensor


def _settings_of_module(painn: Module, conversion: Conversion) -> _Settings:
    """From the attributes of the whole module, after making sure that its parts are those of nff's plain PaiNN."""
    cutoffs = set()
    for message, update in zip(painn.child("message_blocks").children(), painn.child("update_blocks").children()):
        message.expect("MessageBlock")
        invariant = message.child("inv_message").expect("InvariantMessage")
        _activated_pair(invariant.child("inv_dense").expect("InvariantDense").child("layers"))
        distance = invariant.child("dist_embed").expect("DistanceEmbed")
        envelope = distance.child("f_cut").expect("CosineEnvelope")
        cutoffs |= {_number(envelope.stored("cutoff")), _number(_radial(distance).stored("cutoff"))}
        _activated_pair(update.expect("UpdateBlock").child("s_dense"))
    if painn.stored("cutoff") is not None:
        cutoffs.add(_number(painn.stored("cutoff")))
    if len(cutoffs) != 1 or None in cutoffs:
        raise conversion.fail(f"has layers with the cutoffs {cutoffs}, expected one number that all share")
    readout = painn.child("readout_blocks").child("0").expect("ReadoutBlock")
    for network in readout.child("readoutdict").children():
        if network.place.endswith("." + conversion.energy_key):
            _activated_pair(network)
    shifts = readout.child("scale_shift").expect("ScaleShift") if readout.has_child("scale_shift") else None
    pools = painn.stored("pool_dic") or (painn.child("pool_dic") if painn.has_child("pool_dic") else {})
    if isinstance(pools, Module):
        pools = {pool.place.rpartition(".")[2]: pool.record for pool in pools.children()}
    pool = pools.get(conversion.energy_key) if isinstance(pools, dict) else None
    if pool is not None:
        Module(pool, f"pool_dic.{conversion.energy_key}", conversion).expect("SumPool")
    return _Settings(
        cutoff=cutoffs.pop(),
        skip=painn.stored("skip"),
        means=shifts and shifts.stored("means"),
        deviations=shifts and shifts.stored("stddevs"),
        excluded_volume=painn.stored("excl_vol"),
    )


def _radial(distance: Module) -> Module:
    """The radial functions: first of `block` in newer files, `rbf` in older ones."""
    basis = distance.child("block").child("0") if distance.has_child("block") else distance.child("rbf")
    return basis.expect("PainnRadialBasis")


def _activated_pair(network: Module) -> None:
    """Refuses a network that is not Dense(swish), Dense; or Linear, swish, Linear."""
    layers = network.expect("Sequential").children()
    kinds = [layer.kind for layer in layers]
    if kinds == ["Dense", "Dense"]:
        found = [layer.activation() for layer in layers]
    elif len(kinds) == 3 and kinds[0] in ("Linear", "Dense") and kinds[2] == kinds[0]:
        found = [kinds[1], ""]
    else:
        raise network.fail(f"has the layers {', '.join(kinds)}, expected two with an activation between them")
    if found[0] not in _ACTIVATIONS or found[1]:
        first, second = (name or "none" for name in found)
        raise network.fail(f"has the activations '{first}', '{second}', expected swish and none")


def _settings_beside(conversion: Conversion) -> _Settings:
    """From nff's params.json; without it the cutoff is the user's and the rest is what nff does by default."""
    if conversion.params is None:
        conversion.notes.append(
            "a training state names neither activation, means nor deviations; swish, 0 and 1 are assumed "
            "(nff's params.json, if it is there, tells: --params)"
        )
        return _Settings(cutoff=None)
    try:
        with open(conversion.params, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise conversion.fail(f"--params {conversion.params}: not readable as JSON: {error}") from None
    for key in ("details", "modelparams"):  # as nff nests them
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or "cutoff" not in found:
        raise conversion.fail(f"--params {conversion.params}: has no 'cutoff', expected nff's params.json")
    kind, activation = found.get("model_type", "Painn"), found.get("activation", "swish")
    if kind != "Painn":
        raise conversion.fail(f"--params {conversion.params}: model_type '{kind}', expected 'Painn'")
    if activation != "swish":
        raise conversion.fail(f"--params {conversion.params}: activation '{activation}', expected 'swish'")
    pool = (found.get("pool_dic") or {}).get(conversion.energy_key) or {}
    if str(pool.get("name", "sum")).lower() != "sum":
        raise conversion.fail(f"--params {conversion.params}: pools the energy by '{pool['name']}', expected 'sum'")
    return _Settings(
        cutoff=_number(found["cutoff"]),
        skip=found.get("skip_connection"),
        means=found.get("means"),
        deviations=found.get("stddevs"),
        excluded_volume=found.get("excl_vol"),
    )


def _number(stored: object) -> float | None:
    """A number however nff stored it: plain, or as a tensor of one element."""
    if isinstance(stored, Tensor):
        array = stored.array().reshape(-1)
        return float(array[0]) if array.size == 1 else None
    return float(stored) if isinstance(stored, (int, float)) and not isinstance(stored, bool) else None


def _cutoff(settings: _Settings, conversion: Conversion) -> float:
    if settings.cutoff is None and conversion.cutoff is None:
        raise conversion.fail("does not say its cutoff radius, give nff's params.json with --params, or --cutoff")
    if settings.cutoff is not None and conversion.cutoff not in (None, settings.cutoff):
        raise conversion.fail(
            f"was made with a cutoff of {settings.cutoff} angstrom, but --cutoff says {conversion.cutoff}"
        )
    return conversion.cutoff if settings.cutoff is None else settings.cutoff


def _scale_and_shift(settings: _Settings, conversion: Conversion) -> tuple[float, float]:
    """nff multiplies each atom's output by the deviation and adds the mean, before it sums."""
    values = []
    for name, table, default in (("stddevs", settings.deviations, 1.0), ("means", settings.means, 0.0)):
        stored = table.get(conversion.energy_key, default) if isinstance(table, dict) else default
        number = _number(stored)
        if number is None:
            raise conversion.fail(f"'{name}' of '{conversion.energy_key}' is not one number")
        values.append(number)
    return values[0], values[1]


def _refuse_what_adds_to_the_energy(settings: _Settings, state: StateDictionary, conversion: Conversion) -> None:
    skip = settings.skip.get(conversion.energy_key) if isinstance(settings.skip, dict) else settings.skip
    if skip:
        raise conversion.fail("sums a readout of every layer (skip_connection), expected one readout after the last")
    if any(key.startswith("readout_blocks.1.") for key in state.entries):
        # some output skips; without attributes or params.json nobody knows whether it is the energy
        if settings.skip is None:
            raise conversion.fail("has a readout for every layer; give --params params.json, which tells why")
    if settings.excluded_volume:
        raise conversion.fail("adds a repulsive term to the network (excl_vol), which is not supported")


# Tensors


def _interactions(state: StateDictionary, tensors: dict) -> int:
    """Message and update layers; returns their number."""
    number = 0
    while any(key.startswith(f"message_blocks.{number}.") for key in state.entries):
        message, update = f"message_blocks.{number}.inv_message.", f"update_blocks.{number}."
        distance = message + "dist_embed."
        filters = distance + ("dense" if distance + "dense.weight" in state.entries else "block.1")
        state.dense(filters, f"message.{number}.filter", tensors, ("v s R", MESSAGE_ORDER))
        _pair(state, message + "inv_dense.layers", f"message.{number}.context", tensors, ("v s R", MESSAGE_ORDER))
        _pair(state, update + "s_dense", f"update.{number}.dense", tensors, ("v sv s", UPDATE_ORDER))
        for name, target in (("v_mat", "V"), ("u_mat", "U")):
            tensors[f"update.{number}.{target}.weight"] = state.take(f"{update}{name}.weight")
        number += 1
    if not number:
        raise state.conversion.fail("tensor 'message_blocks.0.inv_message.dist_embed.block.1.weight' is missing")
    return number


def _pair(state: StateDictionary, source: str, target: str, tensors: dict, order: tuple[str, str] | None) -> None:
    """Two layers, the second with its rows in the model file's order."""
    second = "1" if f"{source}.1.weight" in state.entries else "2"
    state.dense(f"{source}.0", f"{target}.0", tensors)
    state.dense(f"{source}.{second}", f"{target}.1", tensors, order)


def _frequencies(
    state: StateDictionary, content: object, n_interactions: int, tensors: dict, cutoff: float
) -> np.ndarray:
    """n pi / cutoff [K], 1/angstrom, in double, for which one precision is not enough. n is 1..K, or learnt: then
    every layer has its own, and the model file can only hold what is the same in all."""
    n_radial = tensors["message.0.filter.weight"].shape[1]
    found = []
    for number in range(n_interactions):
        distance = f"message_blocks.{number}.inv_message.dist_embed."
        names = [distance + name for name in ("block.0.n", "rbf.n") if distance + name in state.entries]
        learnt = state.array(names[0]) if names else _constant_n(content, number)
        found.append(np.arange(1, n_radial + 1) if learnt is None else np.asarray(learnt, float))
    if any(n.shape != (n_radial,) or not np.array_equal(n, found[0]) for n in found):
        raise state.conversion.fail(
            "its message layers have learnt different radial functions (learnable_k), expected the same in all"
        )
    return found[0] * np.pi / cutoff


def _constant_n(content: object, number: int) -> np.ndarray | None:
    """n of a layer that does not learn it: a plain attribute in a whole module, nowhere in a state dictionary."""
    if not isinstance(content, Record):
        return None
    place = Module(content, "", None)
    for name in ("message_blocks", str(number), "inv_message", "dist_embed"):
        place = place.child(name)
    stored = _radial(place).stored("n")
    return stored.array() if isinstance(stored, Tensor) else None


def _readout(state: StateDictionary, tensors: dict, conversion: Conversion) -> None:
    """The energy's readout; those of other outputs are left out with a note.

    Where another output sums a readout of every layer, all layers have one for the energy too, of which nff then uses
    the first alone.
    """
    start = "readout_blocks.0.readoutdict."
    keys = sorted({key[len(start) :].split(".")[0] for key in state.entries if key.startswith(start)})
    if conversion.energy_key not in keys:
        raise conversion.fail(
            f"has no output '{conversion.energy_key}', found {', '.join(keys) or 'none'}; name one with --energy-key"
        )
    _pair(state, start + conversion.energy_key, "readout", tensors, None)
    if tensors["readout.1.weight"].shape[0] != 1:
        n_values = tensors["readout.1.weight"].shape[0]
        raise conversion.fail(f"'{conversion.energy_key}' has {n_values} values, expected 1")
    others = [key for key in keys if key != conversion.energy_key]
    for key in state.entries:
        place = _READOUT.match(key)
        if place and place.groups() != ("0", conversion.energy_key):
            state.taken.add(key)
    if others:
        conversion.notes.append(f"outputs that are not the energy are left out: {', '.join(others)}")
