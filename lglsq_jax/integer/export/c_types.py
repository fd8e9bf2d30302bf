"""The C text that is the same in every header: the types, and how a program is laid out."""

from .c_steps import MOST_AXES, OPERATIONS

LAYOUT = """\
 * Layout. The program is a list of instructions, run in order. Each reads earlier results (`inputs` are positions in
 * the list) and constants, and writes one result of `shape` (row-major, one sample) at `place`, an offset in bytes into
 * one block of memory, the arena; a place may be used again once nothing needs what was there. Constants are read where
 * they are. Arrays of type PACKED hold codes as a stream of fields of `bits` bits without gaps: first code first, least
 * significant bit first, across byte borders; signed codes are stored with 2^(bits-1) added.
 *
 * Attributes, where n is the number of axes of the result and AXIS stands for seven numbers: size of the input, size of
 * the result, size of the window, stride, padding before, dilation of the input, dilation of the window. Position
 * `o * stride + w * dilation of the window - padding before` of the dilated input belongs to result o and window
 * position w; outside and between the input's elements there is nothing, which adds 0 and is no maximum.
 *
 *   input        none: the codes are put at its place before the first instruction runs
 *   constant     none: its constant `codes` is the result
 *   convolve     batch, groups, channels, outputs, spatial axes, AXIS of each; inputs: codes [batch, *spatial,
 *                channels], kernel [*window, channels / groups, outputs]
 *   multiply     the same without spatial axes: a matrix product over the last axis
 *   rescale      strides, low, high, shift, clamped (0 or 1), least sum (high, low half), largest sum (high, low half),
 *                a shift for each input; constants: bias, a multiplier for each input;
 *                clip(round(clamp(bias + sum_i floor(input_i * multiplier_i / 2^shift_i)) / 2^shift), low, high),
 *                in 64 bits, rounded to nearest, ties to even
 *   clip         strides, low, high
 *   maximum, minimum, times      strides; two inputs
 *   table        strides, low, entries;  table[..., x - low]
 *   staircase    strides, steps;  values[..., number of thresholds <= x], thresholds sorted
 *   window_sum, window_max       axes, AXIS of each (a sum or maximum over whole axes is one, too)
 *   reshape      none: its input's memory is its result
 *   move         start, n strides of the input
 *   take         axis, n strides of the input, indices along the axis
 *   pad          value; of each axis: size of the input, padding before (negative: cut), distance between its elements
 *   concatenate  outer; of each input: inner; the result is, outer times, the next inner elements of each input
 *
 * "strides" are n numbers for each input, then n for each constant: how many elements on the next one along each axis
 * of the result is, 0 where an operand is broadcast.
"""

_BEFORE = """\
#ifndef LGLSQ_PROGRAM
#define LGLSQ_PROGRAM 1 /* version of the layout */

#define LGLSQ_MOST_AXES %d

"""

_AFTER = """
enum lglsq_type {
    LGLSQ_INT8,
    LGLSQ_UINT8,
    LGLSQ_INT16,
    LGLSQ_INT32,
    LGLSQ_INT64,
    LGLSQ_PACKED_UNSIGNED,
    LGLSQ_PACKED_SIGNED
};

typedef struct {
    const void *data;
    int32_t type; /* enum lglsq_type */
    int32_t bits; /* of a code, where it is packed */
} lglsq_array;

typedef struct {
    int32_t op;    /* enum lglsq_operation */
    int32_t type;  /* of the result: LGLSQ_INT8, LGLSQ_UINT8 or LGLSQ_INT32 */
    int32_t place; /* of the result in the arena, in bytes; -1: a constant, which is read where it is */
    int32_t axes;
    const int32_t *shape;
    int32_t input_count;
    const int32_t *inputs;
    int32_t constant_count;
    const lglsq_array *constants;
    const int32_t *attributes;
} lglsq_instruction;

typedef struct {
    int32_t instruction_count;
    const lglsq_instruction *instructions; /* the last one makes the logits */
    int32_t input_count;
    const int32_t *inputs; /* positions of the input instructions, in the order in which codes are given */
    int32_t arena_bytes;
} lglsq_program;

#endif
"""


def types() -> str:
    """Returns the declarations that every header holds, guarded so that several headers may be included together."""
    names = ",\n".join(f"    LGLSQ_{name.upper()}" for name in OPERATIONS)
    return _BEFORE % MOST_AXES + f"enum lglsq_operation {{\n{names}\n}};\n" + _AFTER
