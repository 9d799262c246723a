"""A decoding step as machine code that numba makes of the loops below, for one token or a few of each of many rows.

A step of a small model is a few hundred operations on a few hundred numbers each: torch, and even numpy, spend most of
such a step between operations. Here a step is one call. Every matrix is read once for all tokens, in float32 or as one
of 255 whole numbers times a scale (`quantized`), and used while it is in a register or the nearest cache.

The cores go through the step side by side, each with its share of every matrix's outputs, and meet where one needs what
the others made: six times in a layer. Each number is the work of one core, whatever their count, so that a step gives
the same logits on any number of them.

numba compiles the functions when they are first called and keeps the result in a folder beside this file, or in the
user's cache if that cannot be written: about twenty seconds once per installation, and less than one in later
processes. Importing this module imports numba, so only a decoder does.

Axis letters:  N new tokens: of B rows, T of each   M of them, whose logits are wanted   D model width   V vocabulary
               O outputs of a matrix, I inputs   Q query heads   H key-value heads   K head width   J half of it
               G = (Q + 2 H) K, queries, keys and values   S slots of the cache   P positions   L layers
               E experts   C experts chosen per token   R pairs of token and chosen expert, sorted by expert
               F hidden numbers of an expert   U = 2 F, gate and linear part of each
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from numba.core import event
from numpy.typing import NDArray
from torch import Tensor

from .machine import (
    CAN_SHARE,
    PATIENCE,
    compiled,
    compiled_in_order,
    compiled_in_place,
    count_up,
    exchange,
    look,
    meet,
    pointer,
    power_of_two,
    wait_a_moment,
)
from .quantized import quantize

if TYPE_CHECKING:
    from ..config import ModelConfig
    from .kv_cache import KVCache

Array = NDArray[np.float32]

SHARED_WORK = 1 << 19
"""Products in a step from which the cores share it: fewer are done sooner than a second core has begun."""

MOST_CORES = 8
"""Of a step: reading memory gains little from more."""

OUTPUTS = 16
"""A core's share of a matrix is a multiple of this many outputs, of which each token's inputs are read once."""

READING = 4
"""Products that take as long as reading a weight for the first of them."""

APART = 64
"""Numbers between two arrays that a loop writes."""

STAY = 1000
"""Looks after the patient ones before a helper without a job goes: about as long as it takes to choose a token."""


@compiled
def _share(count, core, cores, unit):
    """From where to where a core's share of so many numbers goes, in whole units."""
    units = (count + unit - 1) // unit
    return min(units * core // cores * unit, count), min(units * (core + 1) // cores * unit, count)


@compiled_in_order
def _exp(x):
    """exp in float32 without a branch, so that a loop of it fills vector registers: 2^n times the Taylor series of the
    rest, which is at most half of ln 2. Below -87 and above 88 it is what it is there."""
    bounded = min(max(x, np.float32(-87)), np.float32(88))
    # Adding a number so large that no fraction has room rounds to the nearest whole number.
    whole = bounded * np.float32(1.4426950408889634) + np.float32(12582912) - np.float32(12582912)
    # ln 2 in two parts, of which the first times a whole number is exact.
    rest = bounded - whole * np.float32(0.693359375) - whole * np.float32(-2.1219444005469057e-4)
    series = np.float32(1 / 720) + rest * np.float32(1 / 5040)
    series = np.float32(1 / 24) + rest * (np.float32(1 / 120) + rest * series)
    series = np.float32(1 / 2) + rest * (np.float32(1 / 6) + rest * series)
    series = np.float32(1) + rest * (np.float32(1) + rest * series)
    return series * power_of_two(whole) + (x - x)  # NaN stays NaN


@compiled
def _rows(weight_OI, scale_O, bias_O, x_NI, y_NO, begin, end, add):
    """Outputs begin to end of x W^T + b, in place of y or added to it; no scale or bias has no numbers. Four tokens and
    two outputs at a time: six numbers are read for eight products."""
    tokens, inputs = x_NI.shape
    whole = tokens - tokens % 4
    for n in range(tokens):
        for o in range(begin, end):
            y_NO[n, o] = (y_NO[n, o] if add else np.float32(0)) + (bias_O[o] if len(bias_O) else np.float32(0))
    for first in range(begin, end, OUTPUTS):
        last = min(first + OUTPUTS, end)
        for n in range(0, whole, 4):
            x0_I, x1_I, x2_I, x3_I = x_NI[n], x_NI[n + 1], x_NI[n + 2], x_NI[n + 3]
            for o in range(first, last, 2):
                other = min(o + 1, last - 1)  # the last of an odd number is computed twice
                a_I, b_I = weight_OI[o], weight_OI[other]
                a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
                for i in range(inputs):
                    a, b = np.float32(a_I[i]), np.float32(b_I[i])
                    a0 += a * x0_I[i]
                    a1 += a * x1_I[i]
                    a2 += a * x2_I[i]
                    a3 += a * x3_I[i]
                    b0 += b * x0_I[i]
                    b1 += b * x1_I[i]
                    b2 += b * x2_I[i]
                    b3 += b * x3_I[i]
                scale = scale_O[o] if len(scale_O) else np.float32(1)
                y_NO[n, o] += a0 * scale
                y_NO[n + 1, o] += a1 * scale
                y_NO[n + 2, o] += a2 * scale
                y_NO[n + 3, o] += a3 * scale
                if other > o:
                    scale = scale_O[other] if len(scale_O) else np.float32(1)
                    y_NO[n, other] += b0 * scale
                    y_NO[n + 1, other] += b1 * scale
                    y_NO[n + 2, other] += b2 * scale
                    y_NO[n + 3, other] += b3 * scale
        for n in range(whole, tokens):
            x_I = x_NI[n]
            for o in range(first, last):
                weight_I = weight_OI[o]
                total = np.float32(0)
                for i in range(inputs):
                    total += np.float32(weight_I[i]) * x_I[i]
                y_NO[n, o] += total * (scale_O[o] if len(scale_O) else np.float32(1))


@compiled_in_order
def _columns(weight_IO, scale_O, bias_O, x_NI, token_R, y_RO, begin):
    """Outputs from `begin` on, as many as y has, of x W + b for some of the tokens; this matrix stands the other way
    round. Three inputs of two tokens at a time: five numbers are read and two written for six products. (Four inputs
    would be more pairs of arrays than LLVM makes sure that they do not overlap.)"""
    inputs, tokens, count = len(weight_IO), len(token_R), y_RO.shape[1]
    end = begin + count
    whole, even = inputs - inputs % 3, tokens - tokens % 2
    y_RO[:] = 0
    for i in range(0, whole, 3):
        # Rows by themselves: numba would ask of each index in a matrix whether it counts from the end.
        a_O, b_O, c_O = weight_IO[i, begin:end], weight_IO[i + 1, begin:end], weight_IO[i + 2, begin:end]
        for r in range(0, even, 2):
            x_I, other_x_I = x_NI[token_R[r]], x_NI[token_R[r + 1]]
            y_O, other_y_O = y_RO[r], y_RO[r + 1]
            xa, xb, xc = x_I[i], x_I[i + 1], x_I[i + 2]
            other_xa, other_xb, other_xc = other_x_I[i], other_x_I[i + 1], other_x_I[i + 2]
            for o in range(count):
                a, b, c = np.float32(a_O[o]), np.float32(b_O[o]), np.float32(c_O[o])
                y_O[o] = ((y_O[o] + xa * a) + xb * b) + xc * c
                other_y_O[o] = ((other_y_O[o] + other_xa * a) + other_xb * b) + other_xc * c
        for r in range(even, tokens):
            x_I, y_O = x_NI[token_R[r]], y_RO[r]
            xa, xb, xc = x_I[i], x_I[i + 1], x_I[i + 2]
            for o in range(count):
                y_O[o] = ((y_O[o] + xa * np.float32(a_O[o])) + xb * np.float32(b_O[o])) + xc * np.float32(c_O[o])
    for i in range(whole, inputs):
        a_O = weight_IO[i, begin:end]
        for r in range(tokens):
            x, y_O = x_NI[token_R[r], i], y_RO[r]
            for o in range(count):
                y_O[o] += x * np.float32(a_O[o])
    if len(scale_O):
        y_RO *= scale_O[begin:end]
    y_RO += bias_O[begin:end]


@compiled
def _mean_square(x_D):
    total = np.float32(0)
    for d in range(len(x_D)):
        total += x_D[d] * x_D[d]
    return total / np.float32(len(x_D))


@compiled_in_order
def _norm(x_ND, weight_D, eps):
    """RMSNorm."""
    normed_ND = np.empty_like(x_ND)
    for n in range(len(x_ND)):
        x_D, normed_D = x_ND[n], normed_ND[n]
        factor = np.float32(1) / np.float32(math.sqrt(_mean_square(x_D) + eps))
        for d in range(len(x_D)):
            normed_D[d] = x_D[d] * factor * weight_D[d]
    return normed_ND


@compiled_in_order
def _rotate(head_K, cos_J, sin_J):
    """A head's halves (a, b) become (a cos - b sin, b cos + a sin)."""
    half = len(cos_J)
    for j in range(half):
        a, b = head_K[j], head_K[half + j]
        head_K[j] = a * cos_J[j] - b * sin_J[j]
        head_K[half + j] = b * cos_J[j] + a * sin_J[j]


@compiled
def _slot(place, first, slots):
    """Where a ring has the `place`th of what is seen from slot `first` on."""
    slot = first + place
    return slot if slot < slots else slot - slots


@compiled
def _softmax(score_S, sink):
    """Scores become shares of what is seen and of a sink, which is one more score, whose value is nothing."""
    largest = np.float32(sink)
    for place in range(len(score_S)):
        largest = max(largest, score_S[place])
    total = np.float32(math.exp(sink - largest))
    for place in range(len(score_S)):
        score_S[place] = _exp(score_S[place] - largest)
        total += score_S[place]
    for place in range(len(score_S)):
        score_S[place] /= total


@compiled
def _score(a_K, b_K, keys_SHK, head, first, a_score_S, b_score_S):
    """Scores of two queries with as many keys as there are scores to write, in slots from `first` on. Keys are read
    once for both."""
    slots, _, width = keys_SHK.shape
    scale = np.float32(1 / math.sqrt(width))
    for place in range(len(a_score_S)):
        key_K = keys_SHK[_slot(place, first, slots), head]
        a_score = b_score = np.float32(0)
        for k in range(width):
            a_score += a_K[k] * key_K[k]
            b_score += b_K[k] * key_K[k]
        a_score_S[place] = a_score * scale
        b_score_S[place] = b_score * scale


@compiled_in_order
def _mix(a_share_S, b_share_S, values_SHK, head, first, a_mixed_K, b_mixed_K):
    """The values in those slots, weighed by the shares of either query."""
    slots = len(values_SHK)
    count, width = len(a_share_S), len(a_mixed_K)
    a_mixed_K[:] = 0
    b_mixed_K[:] = 0
    whole = count - count % 2
    for place in range(0, whole, 2):
        one_K = values_SHK[_slot(place, first, slots), head]
        two_K = values_SHK[_slot(place + 1, first, slots), head]
        a_one, a_two = a_share_S[place], a_share_S[place + 1]
        b_one, b_two = b_share_S[place], b_share_S[place + 1]
        for k in range(width):
            one, two = one_K[k], two_K[k]
            a = a_mixed_K[k] + a_one * one
            b = b_mixed_K[k] + b_one * one
            a_mixed_K[k] = a + a_two * two
            b_mixed_K[k] = b + b_two * two
    if whole < count:
        one_K = values_SHK[_slot(whole, first, slots), head]
        a_one, b_one = a_share_S[whole], b_share_S[whole]
        for k in range(width):
            a_mixed_K[k] += a_one * one_K[k]
            b_mixed_K[k] += b_one * one_K[k]


@compiled
def _attend(
    qkv_NGK, keys_BSHK, values_BSHK, sinks_Q, window, position_N, cos_PJ, sin_PJ, mixed_NQK, head, row
):  # fmt: skip
    """All new tokens of a row, for one key-value head, one after the other: key and value go into the cache, and the
    queries see what is there then. So no token pushes out what one before it sees."""
    keys_SHK, values_SHK = keys_BSHK[row], values_BSHK[row]
    slots, kv_heads, width = keys_SHK.shape
    queries = qkv_NGK.shape[1] - 2 * kv_heads
    group = queries // kv_heads
    time = len(qkv_NGK) // len(keys_BSHK)
    a_score_S, b_score_S = np.empty(slots, np.float32), np.empty(slots, np.float32)
    # Apart, since two arrays side by side are no case for vector registers.
    a_mixed_K, b_mixed_K = np.empty(width + APART, np.float32)[:width], np.empty(width + APART, np.float32)[:width]
    for n in range(row * time, (row + 1) * time):
        position = position_N[n]
        slot = position % slots
        _rotate(qkv_NGK[n, queries + head], cos_PJ[position], sin_PJ[position])
        keys_SHK[slot, head] = qkv_NGK[n, queries + head]
        values_SHK[slot, head] = qkv_NGK[n, queries + kv_heads + head]
        for query in range(head * group, (head + 1) * group):
            _rotate(qkv_NGK[n, query], cos_PJ[position], sin_PJ[position])
        count = min(position + 1, window)
        first = (position + 1 - count) % slots
        for query in range(head * group, (head + 1) * group, 2):
            other = min(query + 1, (head + 1) * group - 1)  # the last of an odd number is computed twice
            _score(qkv_NGK[n, query], qkv_NGK[n, other], keys_SHK, head, first, a_score_S[:count], b_score_S[:count])
            _softmax(a_score_S[:count], sinks_Q[query] if len(sinks_Q) else np.float32(-np.inf))
            _softmax(b_score_S[:count], sinks_Q[other] if len(sinks_Q) else np.float32(-np.inf))
            _mix(a_score_S[:count], b_score_S[:count], values_SHK, head, first, a_mixed_K, b_mixed_K)
            mixed_NQK[n, query] = a_mixed_K
            mixed_NQK[n, other] = b_mixed_K


@compiled
def _choose(logit_E, chosen_C, weight_C):
    """The experts with the largest logits, falling, the first of equals first; and their softmax."""
    total = np.float32(0)
    for place in range(len(chosen_C)):
        best = 0
        for expert in range(len(logit_E)):
            if logit_E[expert] > logit_E[best]:
                best = expert
        if place == 0:
            largest = logit_E[best]
        chosen_C[place] = best
        weight_C[place] = math.exp(logit_E[best] - largest)
        total += weight_C[place]
        logit_E[best] = -np.inf
    weight_C /= total


@compiled
def _route(x_ND, router_ED, bias_E, count):
    """Pairs of token and chosen expert, sorted by expert.

    Returns:
        (R,) the pairs' tokens, (R,) their weights, (E + 1,) where each expert's pairs begin.
    """
    tokens, experts = len(x_ND), len(router_ED)
    logit_NE = np.empty((tokens, experts), np.float32)
    _rows(router_ED, bias_E[:0], bias_E, x_ND, logit_NE, 0, experts, False)
    chosen_NC, weight_NC = np.empty((tokens, count), np.int64), np.empty((tokens, count), np.float32)
    begin_E = np.zeros(experts + 1, np.int64)
    for n in range(tokens):
        _choose(logit_NE[n], chosen_NC[n], weight_NC[n])
        for place in range(count):
            begin_E[chosen_NC[n, place] + 1] += 1
    for expert in range(experts):
        begin_E[expert + 1] += begin_E[expert]
    token_R, weight_R = np.empty(tokens * count, np.int64), np.empty(tokens * count, np.float32)
    free_E = begin_E.copy()
    for n in range(tokens):
        for place in range(count):
            expert = chosen_NC[n, place]
            token_R[free_E[expert]], weight_R[free_E[expert]] = n, weight_NC[n, place]
            free_E[expert] += 1
    return token_R, weight_R, begin_E


@compiled_in_order
def _activate(hidden_RU, active_RF, begin, alpha, limit):
    """Clamped SwiGLU of gate and linear part, interleaved, into the hidden numbers from `begin` on."""
    count = hidden_RU.shape[1] // 2
    for r in range(len(hidden_RU)):
        hidden_U, active_F = hidden_RU[r], active_RF[r, begin : begin + count]
        for f in range(count):
            gate, linear = hidden_U[2 * f], hidden_U[2 * f + 1]
            gate = limit if gate > limit else gate
            linear = limit if linear > limit else linear
            linear = -limit if linear < -limit else linear
            active_F[f] = (linear + np.float32(1)) * gate / (np.float32(1) + _exp(-alpha * gate))


(
    _NORM, _QKV, _QKV_SCALE, _QKV_BIAS, _OUT, _OUT_SCALE, _OUT_BIAS, _SINKS,
    _EXPERTS_NORM, _ROUTER, _ROUTER_BIAS,
    _GATE_UP, _GATE_UP_SCALE, _GATE_UP_BIAS, _DOWN, _DOWN_SCALE, _DOWN_BIAS,
) = range(17)  # fmt: skip
"""Columns of the table of a model's layers: addresses of parameters, 0 for what there is not."""

_KEYS, _VALUES, _SLOTS, _WINDOW = range(4)
"""Columns of the table of a cache's layers, `KVCache.addresses`."""


@compiled_in_order
def _add(weight, answer_D, x_D):
    for d in range(len(x_D)):
        x_D[d] += weight * answer_D[d]


@compiled
def _vector(address, count, row=0):
    """A row of a table that has rows of so many numbers; nothing where there is no table."""
    if address == 0:
        return carray(pointer(address), (0,), np.float32)
    return carray(pointer(address + 4 * row * count), (count,), np.float32)


@compiled_in_place
def _attention_part(
    core, cores, job, meeting, kind, sizes, eps, table, ring, batch, position_N, cos_PJ, sin_PJ,
    x_ND, qkv_NG, mixed_NI,
):  # fmt: skip
    """A core's part of a layer's attention; adds it to x."""
    heads, kv_heads, width, _, _, _ = sizes
    tokens, model = x_ND.shape
    inner, all_heads = mixed_NI.shape[1], qkv_NG.shape[1]
    normed_ND = _norm(x_ND, _vector(table[_NORM], model), eps)
    begin, end = _share(all_heads, core, cores, OUTPUTS)
    weight = carray(pointer(table[_QKV]), (all_heads, model), kind.dtype)
    _rows(
        weight, _vector(table[_QKV_SCALE], all_heads), _vector(table[_QKV_BIAS], all_heads), normed_ND, qkv_NG,
        begin, end, False,
    )  # fmt: skip
    meet(job, cores, meeting + 1)
    shape = (batch, ring[_SLOTS], kv_heads, width)
    keys_BSHK = carray(pointer(ring[_KEYS]), shape, np.float32)
    values_BSHK = carray(pointer(ring[_VALUES]), shape, np.float32)
    qkv_NGK = qkv_NG.reshape(tokens, -1, width)
    mixed_NQK = mixed_NI.reshape(tokens, -1, width)
    begin, end = _share(batch * kv_heads, core, cores, 1)
    for pair in range(begin, end):
        _attend(
            qkv_NGK, keys_BSHK, values_BSHK, _vector(table[_SINKS], heads), ring[_WINDOW], position_N, cos_PJ, sin_PJ,
            mixed_NQK, pair % kv_heads, pair // kv_heads,
        )  # fmt: skip
    meet(job, cores, meeting + 2)
    begin, end = _share(model, core, cores, OUTPUTS)
    weight = carray(pointer(table[_OUT]), (model, inner), kind.dtype)
    _rows(
        weight, _vector(table[_OUT_SCALE], model), _vector(table[_OUT_BIAS], model), mixed_NI, x_ND,
        begin, end, True,
    )  # fmt: skip
    meet(job, cores, meeting + 3)


@compiled
def _boundary(begin_E, units, core, cores):
    """Where a core's share of the chosen experts' outputs begins, so that all have as much to do: the place in all
    experts' units, one expert's after the other's."""
    work = 0
    for expert in range(len(begin_E) - 1):
        pairs = begin_E[expert + 1] - begin_E[expert]
        work += units * (pairs + READING) if pairs else 0
    before = work * core // cores
    for expert in range(len(begin_E) - 1):
        pairs = begin_E[expert + 1] - begin_E[expert]
        if pairs:
            if before < units * (pairs + READING):
                return expert * units + before // (pairs + READING)
            before -= units * (pairs + READING)
    return (len(begin_E) - 1) * units


@compiled_in_place
def _experts_part(core, cores, job, meeting, kind, sizes, numbers, table, x_ND, active_RF, answer_RD):
    """A core's part of a layer's experts; adds it to x."""
    _, _, _, experts, count, hidden = sizes
    eps, alpha, limit = numbers
    model = x_ND.shape[1]
    normed_ND = _norm(x_ND, _vector(table[_EXPERTS_NORM], model), eps)
    router_ED = carray(pointer(table[_ROUTER]), (experts, model), np.float32)
    token_R, weight_R, begin_E = _route(normed_ND, router_ED, _vector(table[_ROUTER_BIAS], experts), count)

    gate_up_EDU = carray(pointer(table[_GATE_UP]), (experts, model, 2 * hidden), kind.dtype)
    units = (hidden + OUTPUTS - 1) // OUTPUTS
    here, next_core = _boundary(begin_E, units, core, cores), _boundary(begin_E, units, core + 1, cores)
    for expert in range(here // units, min((next_core + units - 1) // units, experts)):
        first, last = begin_E[expert], begin_E[expert + 1]
        begin = max(here - expert * units, 0) * OUTPUTS
        end = min((next_core - expert * units) * OUTPUTS, hidden)
        if first < last and begin < end:
            hidden_RU = np.empty((last - first, 2 * (end - begin)), np.float32)
            _columns(
                gate_up_EDU[expert], _vector(table[_GATE_UP_SCALE], 2 * hidden, expert),
                _vector(table[_GATE_UP_BIAS], 2 * hidden, expert), normed_ND, token_R[first:last], hidden_RU, 2 * begin,
            )  # fmt: skip
            _activate(hidden_RU, active_RF[first:last], begin, alpha, limit)
    meet(job, cores, meeting + 1)

    down_EFD = carray(pointer(table[_DOWN]), (experts, hidden, model), kind.dtype)
    pair_R = np.arange(len(token_R))
    units = (model + OUTPUTS - 1) // OUTPUTS
    here, next_core = _boundary(begin_E, units, core, cores), _boundary(begin_E, units, core + 1, cores)
    for expert in range(here // units, min((next_core + units - 1) // units, experts)):
        first, last = begin_E[expert], begin_E[expert + 1]
        begin = max(here - expert * units, 0) * OUTPUTS
        end = min((next_core - expert * units) * OUTPUTS, model)
        if first < last and begin < end:
            part_RD = np.empty((last - first, end - begin), np.float32)
            _columns(
                down_EFD[expert], _vector(table[_DOWN_SCALE], model, expert),
                _vector(table[_DOWN_BIAS], model, expert), active_RF, pair_R[first:last], part_RD, begin,
            )  # fmt: skip
            answer_RD[first:last, begin:end] = part_RD
    meet(job, cores, meeting + 2)

    begin, end = _share(model, core, cores, OUTPUTS)
    for r in range(len(token_R)):
        _add(weight_R[r], answer_RD[r, begin:end], x_ND[token_R[r], begin:end])
    meet(job, cores, meeting + 3)


@compiled_in_place
def _step(
    core, cores, job, kind, sizes, numbers, layers, ends, rings, batch, position_N, wanted_M, cos_PJ, sin_PJ,
    x_ND, qkv_NG, mixed_NI, active_RF, answer_RD, logits_MV,
):  # fmt: skip
    """A core's part of a step.

    Args:
        job: whose first word counts the meetings.
        kind: an array of the matrices' dtype.
        sizes: Q, H, K, E, C, F.
        numbers: the norms' epsilon, SwiGLU's alpha and limit.
        layers, rings: the tables of the model's and the cache's layers.
        ends: addresses of the last norm, the unembedding and its scale.
        wanted_M: the tokens whose logits are wanted.
        x_ND: the tokens' embeddings. This array and all after it are written.
    """
    model, vocabulary = x_ND.shape[1], logits_MV.shape[1]
    for layer in range(len(layers)):
        table, ring = layers[layer], rings[layer]
        _attention_part(
            core, cores, job, 6 * layer, kind, sizes, numbers[0], table, ring, batch, position_N, cos_PJ, sin_PJ,
            x_ND, qkv_NG, mixed_NI,
        )  # fmt: skip
        _experts_part(core, cores, job, 6 * layer + 3, kind, sizes, numbers, table, x_ND, active_RF, answer_RD)
    normed_MD = _norm(x_ND[wanted_M], _vector(ends[0], model), numbers[0])
    begin, end = _share(vocabulary, core, cores, OUTPUTS)
    weight = carray(pointer(ends[1]), (vocabulary, model), kind.dtype)
    _rows(weight, _vector(ends[2], vocabulary), _vector(0, 0), normed_MD, logits_MV, begin, end, False)


(
    _ARRIVED, _CORES_TOGETHER, _TOKENS, _BATCH, _WANTED, _LAYERS, _MODEL, _VOCABULARY, _POSITIONS,
    _HEADS, _KV_HEADS, _WIDTH, _EXPERTS, _CHOSEN, _HIDDEN,
    _NUMBERS_AT, _LAYERS_AT, _ENDS_AT, _RINGS_AT, _POSITION_AT, _WANTED_AT, _COS_AT, _SIN_AT,
    _X_AT, _QKV_AT, _MIXED_AT, _ACTIVE_AT, _ANSWER_AT, _LOGITS_AT,
) = range(29)  # fmt: skip
_JOB_WORDS = 29
"""What a job says, in a table of whole numbers, since cores that are already at work take no arguments: how many have
arrived, sizes, and addresses of arrays."""


@compiled_in_place
def _work(core, job, kind):
    """A core's part of the step that a job describes."""
    cores, tokens, model, width = job[_CORES_TOGETHER], job[_TOKENS], job[_MODEL], job[_WIDTH]
    heads, kv_heads, pairs = job[_HEADS], job[_KV_HEADS], tokens * job[_CHOSEN]
    half = (job[_POSITIONS], width // 2)
    numbers = carray(pointer(job[_NUMBERS_AT]), (3,), np.float32)
    _step(
        core, cores, job, kind,
        (heads, kv_heads, width, job[_EXPERTS], job[_CHOSEN], job[_HIDDEN]),
        (numbers[0], numbers[1], numbers[2]),
        carray(pointer(job[_LAYERS_AT]), (job[_LAYERS], 17), np.int64),
        carray(pointer(job[_ENDS_AT]), (3,), np.int64),
        carray(pointer(job[_RINGS_AT]), (job[_LAYERS], 4), np.int64),
        job[_BATCH],
        carray(pointer(job[_POSITION_AT]), (tokens,), np.int64),
        carray(pointer(job[_WANTED_AT]), (job[_WANTED],), np.int64),
        carray(pointer(job[_COS_AT]), half, np.float32),
        carray(pointer(job[_SIN_AT]), half, np.float32),
        carray(pointer(job[_X_AT]), (tokens, model), np.float32),
        carray(pointer(job[_QKV_AT]), (tokens, (heads + 2 * kv_heads) * width), np.float32),
        carray(pointer(job[_MIXED_AT]), (tokens, heads * width), np.float32),
        carray(pointer(job[_ACTIVE_AT]), (pairs, job[_HIDDEN]), np.float32),
        carray(pointer(job[_ANSWER_AT]), (pairs, model), np.float32),
        carray(pointer(job[_LOGITS_AT]), (job[_WANTED], job[_VOCABULARY]), np.float32),
    )  # fmt: skip


_GONE, _WAITING, _HELD, _CALLED = range(4)
"""What a helper is doing: nothing, looking whether there is a job, looking and not to go away, or a job."""


@compiled
def _call(board, cores):
    """Call all helpers to a job, or none if one is gone: whoever was called waits for the others.

    Returns:
        whether they were called.
    """
    for core in range(1, cores):
        if not exchange(board, core, _WAITING, _HELD):
            for held in range(1, core):
                exchange(board, held, _HELD, _WAITING)
            return False
    for core in range(1, cores):
        exchange(board, core, _HELD, _CALLED)
    return True


@compiled
def _await_helpers(board, cores):
    """Wait until no helper is gone, or for the time after which those who wait go."""
    for core in range(1, cores):
        looks = 0
        while look(board, core) == _GONE and looks <= PATIENCE + STAY:
            looks += 1
            wait_a_moment(looks)


@compiled
def _take_part(core, board, kind):
    """Do a core's part of the job on the board, whose address is its first word. The first core, which put it there,
    calls the others and waits for them. They do other jobs for as long as they come soon; the word of each says what it
    does, so that whoever has a job knows whether anybody looks.

    Returns:
        of the first core: whether the job is done; otherwise a helper is gone. Of a helper: whether there was not one
        already.
    """
    if core == 0:
        job = carray(pointer(board[0]), (_JOB_WORDS,), np.int64)
        if not _call(board, job[_CORES_TOGETHER]):
            return False
    elif not exchange(board, core, _GONE, _WAITING):
        return False
    looks = 0
    while True:
        looks += 1
        if core == 0 or look(board, core) == _CALLED:
            job = carray(pointer(look(board, 0)), (_JOB_WORDS,), np.int64)
            cores, last = job[_CORES_TOGETHER], 6 * job[_LAYERS] + 1
            _work(core, job, kind)
            if core == 0:
                meet(job, cores, last)
                return True
            exchange(board, core, _CALLED, _WAITING)  # before there can be another job
            count_up(job, 0)
            looks = 0
        elif looks <= PATIENCE + STAY:
            wait_a_moment(looks)
        elif exchange(board, core, _WAITING, _GONE):
            return True


class _Remark(event.Listener):
    """Says once per process that compiling takes its time."""

    said = False

    def on_start(self, event: event.Event) -> None:
        if not self.said and event.data["dispatcher"] is _take_part:
            self.said = True
            logging.getLogger(__name__).warning("Compiling the decoding step for this machine takes some 20 s ...")

    def on_end(self, event: event.Event) -> None:
        pass


_remark = _Remark()
event.register("numba:compile", _remark)


class _Cores:
    """Threads beside the one that asks, for one job at a time. Each is a thread of its own, so that all parts of a job
    run at once and can meet; after a job they look for the next one for a moment, since waking them would take as long
    as a step of a small model."""

    def __init__(self) -> None:
        self._one_job = Lock()
        self._boards: dict[np.dtype[Any], NDArray[np.int64]] = {}
        self._helpers = ThreadPoolExecutor(MOST_CORES - 1, thread_name_prefix="decoding")

    def do(self, job: NDArray[np.int64], kind: NDArray[Any]) -> None:
        """Do all parts of a job. Between two calls of compiled functions a signal may end this one; then nobody works
        on the job, and those who wait for one go."""
        cores = int(job[_CORES_TOGETHER])
        if cores == 1:
            _take_part(0, np.array([_address(job)]), kind)
            return
        with self._one_job:
            # A board for each kind of matrices: a helper runs what was compiled for its own.
            board = self._boards.setdefault(kind.dtype, np.zeros(MOST_CORES, np.int64))
            board[0] = _address(job)
            while not _take_part(0, board, kind):
                for core in range(1, cores):
                    if board[core] == _GONE:
                        self._helpers.submit(_take_part, core, board, kind)
                _await_helpers(board, cores)


_cores = _Cores()


def _renew_cores() -> None:
    """A process that was forked has none of its parent's threads."""
    global _cores
    _cores = _Cores()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_cores)


def _address(array: NDArray[Any]) -> int:
    assert array.flags.c_contiguous
    address: int = array.__array_interface__["data"][0]
    return address


class CompiledStep:
    """Decoding steps of a model.

    Args:
        config: of a model that `Decoder.suits`.
        parameters: the model's, by name, as views that later changes show in.
        unembedding_VD: its unembedding.
        in_bytes: multiply with `quantize`d copies of all matrices but the routers', which decide between experts.
    """

    def __init__(
        self, config: ModelConfig, parameters: Mapping[str, Tensor], unembedding_VD: Tensor, *, in_bytes: bool
    ) -> None:
        self._kept: list[Any] = []  # what the tables have addresses of

        def address(values: Tensor | NDArray[Any] | None) -> int:
            if values is None:
                return 0
            array = values.numpy() if isinstance(values, Tensor) else values
            self._kept.append(array)
            return _address(array)

        def matrix(weight: Tensor) -> tuple[int, int]:
            if not in_bytes:
                return address(weight), 0
            numbers, scale = quantize(weight)
            return address(numbers), address(scale)

        table = np.zeros((config.n_layer, 17), np.int64)
        for layer in range(config.n_layer):
            attention, experts = f"layers.{layer}.attention.", f"layers.{layer}.experts."
            router, router_bias = (parameters.get(f"{experts}router.{name}") for name in ("weight", "bias"))
            if router is None:  # a dense model: its only expert is always chosen
                router, router_bias = torch.zeros(1, config.n_embd), torch.zeros(1)
            table[layer] = (
                address(parameters[attention + "norm.weight"]),
                *matrix(parameters[attention + "qkv.weight"]),
                address(parameters[attention + "qkv.bias"]),
                *matrix(parameters[attention + "out.weight"]),
                address(parameters[attention + "out.bias"]),
                address(parameters.get(attention + "sinks")),
                address(parameters[experts + "norm.weight"]),
                address(router),
                address(router_bias),
                *matrix(parameters[experts + "gate_up_weight"]),
                address(parameters[experts + "gate_up_bias"]),
                *matrix(parameters[experts + "down_weight"]),
                address(parameters[experts + "down_bias"]),
            )
        ends = np.array([address(parameters["norm.weight"]), *matrix(unembedding_VD)], np.int64)
        numbers = np.array([config.norm_eps, config.swiglu_alpha, config.swiglu_limit], np.float32)
        count, hidden = parameters["layers.0.experts.down_weight"].shape[:2]
        self._job = job = np.zeros(_JOB_WORDS, np.int64)
        job[_LAYERS], job[_MODEL], job[_VOCABULARY] = config.n_layer, config.n_embd, config.vocab_size
        job[_HEADS], job[_KV_HEADS], job[_WIDTH] = config.n_head, config.kv_heads, config.head_dim
        job[_EXPERTS], job[_CHOSEN], job[_HIDDEN] = count, config.active_experts, hidden
        job[_NUMBERS_AT], job[_LAYERS_AT], job[_ENDS_AT] = address(numbers), address(table), address(ends)
        self._kind = np.empty(0, np.int8 if in_bytes else np.float32)
        self._embedding_VD = parameters["embedding.weight"].numpy()
        self._inner, self._chosen, self._hidden = config.n_head * config.head_dim, config.active_experts, hidden
        self._qkv = self._inner + 2 * config.kv_heads * config.head_dim
        self._model, self._vocabulary = config.n_embd, config.vocab_size
        self._work = config.parameters().active

    @property
    def matrix_dtype(self) -> np.dtype[Any]:
        """What the large matrices are read as."""
        return self._kind.dtype

    def read(self, tokens: Tensor, wanted_M: NDArray[np.int64], cache: KVCache, cos_PJ: Array, sin_PJ: Array) -> Array:
        """Read tokens after those in the cache, which has room for them, and grows by them.

        Args:
            tokens: (B, T) int64.
            wanted_M: the places in the flattened tokens whose logits are wanted.
            cos_PJ, sin_PJ: of all positions up to the largest.

        Returns:
            (M, V) float32, the logits of what follows.
        """
        batch, time = tokens.shape
        count = batch * time
        pairs = count * self._chosen
        position_N = (cache.lengths.numpy()[:, None] + np.arange(time)).reshape(-1)
        logits_MV = np.empty((len(wanted_M), self._vocabulary), np.float32)
        # One piece of memory for all that is written on the way, beginning with the embeddings.
        sizes = (self._model * count, self._qkv * count, self._inner * count, self._hidden * pairs, self._model * pairs)
        scratch = np.empty(sum(sizes), np.float32)
        scratch[: sizes[0]] = self._embedding_VD[tokens.numpy().reshape(-1)].reshape(-1)
        begin = _address(scratch)
        job = self._job.copy()
        for place, size in enumerate(sizes, _X_AT):
            job[place] = begin
            begin += size * scratch.itemsize
        rings = cache.addresses
        arrays = (rings, position_N, wanted_M, cos_PJ, sin_PJ)
        job[_RINGS_AT:_X_AT] = [_address(array) for array in arrays]
        job[_LOGITS_AT] = _address(logits_MV)
        shared = CAN_SHARE and self._work * count >= SHARED_WORK
        job[_CORES_TOGETHER] = min(torch.get_num_threads(), MOST_CORES) if shared else 1
        job[_TOKENS], job[_BATCH], job[_WANTED], job[_POSITIONS] = count, batch, len(wanted_M), len(cos_PJ)
        _cores.do(job, self._kind)
        cache.grow(time)
        return logits_MV
