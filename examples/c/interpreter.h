/* Runs a network from a header that `program.to_c_header` wrote: plain C99, integers alone, no memory of its own.
 *
 * Include the network's header first, then this file. Put the codes of one sample at the places of the program's input
 * instructions in the arena, call `lglsq_run`, read the logits with `lglsq_logit`.
 *
 * It is a reference: written to be read and ported, one element after another. Every operation of the layout is here.
 */
#ifndef LGLSQ_INTERPRETER
#define LGLSQ_INTERPRETER

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    const lglsq_program *program;
    const lglsq_instruction *step;
    uint8_t *arena;
} lglsq_context;

enum { LGLSQ_SIZE, LGLSQ_RESULT, LGLSQ_WINDOW, LGLSQ_STRIDE, LGLSQ_BEFORE, LGLSQ_GAP, LGLSQ_WINDOW_GAP, LGLSQ_AXIS };

/* ---- arrays ---- */

static int32_t lglsq_bytes(int32_t type) { return type == LGLSQ_INT32 ? 4 : 1; }

static int32_t lglsq_count(const lglsq_instruction *step) {
    int32_t count = 1;
    for (int32_t axis = 0; axis < step->axes; axis++) count *= step->shape[axis];
    return count;
}

static int64_t lglsq_read(lglsq_array array, int32_t index) {
    const uint8_t *bytes = array.data;
    if (array.type == LGLSQ_INT8) return ((const int8_t *)array.data)[index];
    if (array.type == LGLSQ_UINT8) return bytes[index];
    if (array.type == LGLSQ_INT16) {
        int16_t number;
        memcpy(&number, bytes + (size_t)index * 2, 2);
        return number;
    }
    if (array.type == LGLSQ_INT32) {
        int32_t number;
        memcpy(&number, bytes + (size_t)index * 4, 4);
        return number;
    }
    if (array.type == LGLSQ_INT64) {
        int64_t number;
        memcpy(&number, bytes + (size_t)index * 8, 8);
        return number;
    }
    const int64_t bit = (int64_t)index * array.bits; /* a packed code */
    const int32_t within = (int32_t)(bit & 7);
    int32_t field = bytes[bit >> 3];
    if (within + array.bits > 8) field |= bytes[(bit >> 3) + 1] << 8;
    field = (field >> within) & ((1 << array.bits) - 1);
    return array.type == LGLSQ_PACKED_SIGNED ? field - (1 << (array.bits - 1)) : field;
}

static void lglsq_write(const lglsq_context *run, int32_t index, int64_t value) {
    uint8_t *result = run->arena + run->step->place;
    const int32_t number = (int32_t)value;
    if (run->step->type == LGLSQ_INT32) {
        memcpy(result + (size_t)index * 4, &number, 4);
    } else {
        result[index] = (uint8_t)number; /* int8 as two's complement */
    }
}

static lglsq_array lglsq_result_of(const lglsq_program *program, const uint8_t *arena, int32_t number) {
    const lglsq_instruction *step = &program->instructions[number];
    lglsq_array array = {0, 0, 0};
    if (step->op == LGLSQ_CONSTANT) return step->constants[0];
    array.data = arena + step->place;
    array.type = step->type;
    return array;
}

static lglsq_array lglsq_input(const lglsq_context *run, int32_t number) {
    return lglsq_result_of(run->program, run->arena, run->step->inputs[number]);
}

/* ---- positions ---- */

/* Goes on to the next index in row-major order; returns 0 after the last. `every` is the distance between sizes. */
static int lglsq_next(int32_t *index, const int32_t *sizes, int32_t axes, int32_t every) {
    for (int32_t axis = axes - 1; axis >= 0; axis--) {
        if (++index[axis] < sizes[axis * every]) return 1;
        index[axis] = 0;
    }
    return 0;
}

static int32_t lglsq_offset(const int32_t *index, const int32_t *strides, int32_t axes) {
    int32_t offset = 0;
    for (int32_t axis = 0; axis < axes; axis++) offset += index[axis] * strides[axis];
    return offset;
}

/* Returns where in the input a window position of a result lies, without the channel; -1 where there is no element. */
static int32_t lglsq_source(const int32_t *geometry, const int32_t *result, const int32_t *window, int32_t axes) {
    int32_t offset = 0;
    for (int32_t axis = 0; axis < axes; axis++, geometry += LGLSQ_AXIS) {
        const int32_t position = result[axis] * geometry[LGLSQ_STRIDE] + window[axis] * geometry[LGLSQ_WINDOW_GAP] -
                                 geometry[LGLSQ_BEFORE];
        if (position < 0 || position % geometry[LGLSQ_GAP] != 0) return -1;
        if (position / geometry[LGLSQ_GAP] >= geometry[LGLSQ_SIZE]) return -1;
        offset = offset * geometry[LGLSQ_SIZE] + position / geometry[LGLSQ_GAP];
    }
    return offset;
}

/* ---- products and windows ---- */

static void lglsq_convolve(const lglsq_context *run) {
    const int32_t *own = run->step->attributes, *axes = own + 5;
    const int32_t batch = own[0], groups = own[1], channels = own[2], outputs = own[3], spatial = own[4];
    const int32_t shared = channels / groups;
    const lglsq_array codes = lglsq_input(run, 0), kernel = lglsq_input(run, 1);
    int32_t pixels = 1, written = 0;
    for (int32_t axis = 0; axis < spatial; axis++) pixels *= axes[axis * LGLSQ_AXIS + LGLSQ_SIZE];
    for (int32_t sample = 0; sample < batch; sample++) {
        int32_t position[LGLSQ_MOST_AXES] = {0};
        do {
            for (int32_t output = 0; output < outputs; output++) {
                const int32_t first = output / (outputs / groups) * shared;
                int32_t window[LGLSQ_MOST_AXES] = {0}, tap = 0;
                int64_t total = 0; /* fits 32 bits in the end; 32 bits that wrap around give the same */
                do {
                    const int32_t pixel = lglsq_source(axes, position, window, spatial);
                    for (int32_t channel = 0; pixel >= 0 && channel < shared; channel++) {
                        total += lglsq_read(codes, (sample * pixels + pixel) * channels + first + channel) *
                                 lglsq_read(kernel, (tap * shared + channel) * outputs + output);
                    }
                    tap++;
                } while (lglsq_next(window, axes + LGLSQ_WINDOW, spatial, LGLSQ_AXIS));
                lglsq_write(run, written++, total);
            }
        } while (lglsq_next(position, axes + LGLSQ_RESULT, spatial, LGLSQ_AXIS));
    }
}

static void lglsq_window(const lglsq_context *run) {
    const int32_t axes = run->step->attributes[0], *geometry = run->step->attributes + 1;
    const lglsq_array input = lglsq_input(run, 0);
    const int64_t least = input.type == LGLSQ_INT8 ? INT8_MIN : input.type == LGLSQ_INT32 ? INT32_MIN : 0;
    int32_t position[LGLSQ_MOST_AXES] = {0}, written = 0;
    do {
        int32_t window[LGLSQ_MOST_AXES] = {0};
        int64_t total = run->step->op == LGLSQ_WINDOW_SUM ? 0 : least;
        do {
            const int32_t source = lglsq_source(geometry, position, window, axes);
            if (source < 0) continue;
            const int64_t value = lglsq_read(input, source);
            if (run->step->op == LGLSQ_WINDOW_SUM) {
                total += value;
            } else if (value > total) {
                total = value;
            }
        } while (lglsq_next(window, geometry + LGLSQ_WINDOW, axes, LGLSQ_AXIS));
        lglsq_write(run, written++, total);
    } while (lglsq_next(position, geometry + LGLSQ_RESULT, axes, LGLSQ_AXIS));
}

/* ---- element by element ---- */

static int64_t lglsq_clip(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

/* value / 2^shift, rounded down; C leaves >> of negative numbers to the compiler. */
static int64_t lglsq_shift(int64_t value, int32_t shift) { return value < 0 ? ~(~value >> shift) : value >> shift; }

static int64_t lglsq_pair(const int32_t *halves) { return halves[0] * (INT64_C(1) << 32) + (uint32_t)halves[1]; }

/* The element of an operand (inputs first, then constants) that belongs to an element of the result. */
static int64_t lglsq_operand(const lglsq_context *run, const int32_t *index, int32_t number, int32_t further) {
    const lglsq_instruction *step = run->step;
    const int32_t offset = lglsq_offset(index, step->attributes + number * step->axes, step->axes) + further;
    const lglsq_array array =
        number < step->input_count ? lglsq_input(run, number) : step->constants[number - step->input_count];
    return lglsq_read(array, offset);
}

static int64_t lglsq_rescale(const lglsq_context *run, const int32_t *index, const int32_t *own) {
    const int32_t terms = run->step->input_count, shift = own[2];
    int64_t total = lglsq_operand(run, index, terms, 0);
    for (int32_t term = 0; term < terms; term++) {
        const int64_t factor = lglsq_operand(run, index, terms + 1 + term, 0);
        total += lglsq_shift(lglsq_operand(run, index, term, 0) * factor, own[8 + term]);
    }
    if (own[3]) total = lglsq_clip(total, lglsq_pair(own + 4), lglsq_pair(own + 6));
    total += INT64_C(1) << (shift - 1);
    int64_t rounded = lglsq_shift(total, shift);
    if ((total & ((INT64_C(1) << shift) - 1)) == 0 && (rounded & 1)) rounded--; /* a tie goes to the even neighbour */
    return lglsq_clip(rounded, own[0], own[1]);
}

static int64_t lglsq_value(const lglsq_context *run, const int32_t *index) {
    const lglsq_instruction *step = run->step;
    const int32_t *own = step->attributes + (step->input_count + step->constant_count) * step->axes;
    if (step->op == LGLSQ_RESCALE) return lglsq_rescale(run, index, own);
    const int64_t x = lglsq_operand(run, index, 0, 0);
    if (step->op == LGLSQ_CLIP) return lglsq_clip(x, own[0], own[1]);
    if (step->op == LGLSQ_TABLE) return lglsq_operand(run, index, 1, (int32_t)lglsq_clip(x - own[0], 0, own[1] - 1));
    if (step->op == LGLSQ_STAIRCASE) {
        int32_t reached = 0;
        while (reached < own[0] && x >= lglsq_operand(run, index, 1, reached)) reached++;
        return lglsq_operand(run, index, 2, reached);
    }
    const int64_t y = lglsq_operand(run, index, 1, 0);
    if (step->op == LGLSQ_TIMES) return x * y;
    return (step->op == LGLSQ_MAXIMUM) == (x > y) ? x : y;
}

static void lglsq_elementwise(const lglsq_context *run) {
    int32_t index[LGLSQ_MOST_AXES] = {0}, written = 0;
    do {
        lglsq_write(run, written++, lglsq_value(run, index));
    } while (lglsq_next(index, run->step->shape, run->step->axes, 1));
}

/* ---- rearranging ---- */

static void lglsq_move(const lglsq_context *run) {
    const lglsq_array input = lglsq_input(run, 0);
    const int32_t *own = run->step->attributes, axes = run->step->axes;
    int32_t index[LGLSQ_MOST_AXES] = {0}, written = 0;
    do {
        int32_t offset = lglsq_offset(index, own + 1, axes);
        if (run->step->op == LGLSQ_MOVE) {
            offset += own[0];
        } else { /* along the axis own[0], position i is element indices[i] */
            offset += (own[1 + axes + index[own[0]]] - index[own[0]]) * own[1 + own[0]];
        }
        lglsq_write(run, written++, lglsq_read(input, offset));
    } while (lglsq_next(index, run->step->shape, axes, 1));
}

static void lglsq_pad(const lglsq_context *run) {
    const lglsq_array input = lglsq_input(run, 0);
    int32_t index[LGLSQ_MOST_AXES] = {0}, written = 0;
    do {
        const int32_t *geometry = run->step->attributes + 1;
        int32_t offset = 0;
        for (int32_t axis = 0; axis < run->step->axes && offset >= 0; axis++, geometry += 3) {
            const int32_t position = index[axis] - geometry[1];
            const int inside = position >= 0 && position % geometry[2] == 0 && position / geometry[2] < geometry[0];
            offset = inside ? offset * geometry[0] + position / geometry[2] : -1;
        }
        lglsq_write(run, written++, offset < 0 ? run->step->attributes[0] : lglsq_read(input, offset));
    } while (lglsq_next(index, run->step->shape, run->step->axes, 1));
}

static void lglsq_concatenate(const lglsq_context *run) {
    const int32_t *own = run->step->attributes;
    int32_t written = 0;
    for (int32_t outer = 0; outer < own[0]; outer++) {
        for (int32_t number = 0; number < run->step->input_count; number++) {
            const int32_t inner = own[1 + number];
            for (int32_t at = 0; at < inner; at++) {
                lglsq_write(run, written++, lglsq_read(lglsq_input(run, number), outer * inner + at));
            }
        }
    }
}

/* ---- the program ---- */

static void lglsq_run(const lglsq_program *program, uint8_t *arena) {
    for (int32_t number = 0; number < program->instruction_count; number++) {
        const lglsq_context run = {program, &program->instructions[number], arena};
        if (lglsq_count(run.step) == 0) continue;
        switch (run.step->op) {
        case LGLSQ_INPUT:
        case LGLSQ_CONSTANT:
        case LGLSQ_RESHAPE:
            break;
        case LGLSQ_CONVOLVE:
        case LGLSQ_MULTIPLY:
            lglsq_convolve(&run);
            break;
        case LGLSQ_WINDOW_SUM:
        case LGLSQ_WINDOW_MAX:
            lglsq_window(&run);
            break;
        case LGLSQ_MOVE:
        case LGLSQ_TAKE:
            lglsq_move(&run);
            break;
        case LGLSQ_PAD:
            lglsq_pad(&run);
            break;
        case LGLSQ_CONCATENATE:
            lglsq_concatenate(&run);
            break;
        default:
            lglsq_elementwise(&run);
        }
    }
}

static int32_t lglsq_logit(const lglsq_program *program, const uint8_t *arena, int32_t index) {
    return (int32_t)lglsq_read(lglsq_result_of(program, arena, program->instruction_count - 1), index);
}

#endif
