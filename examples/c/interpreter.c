/* Runs a network on the codes that come in and writes its logits.
 *
 *   cc -std=c99 -O2 -DNETWORK_HEADER='"network.h"' interpreter.c -o network
 *   ./network < codes > logits
 *
 * Standard input: the codes of one sample after another, as raw bytes; where a network has several inputs, all of the
 * first sample come before the second sample. Standard output: its logits as int32, in the machine's byte order.
 * -DNETWORK=name for a header written under another name.
 */
#include <stdint.h>
#include <stdio.h>

#ifndef NETWORK
#define NETWORK network
#endif
#include NETWORK_HEADER

#include "interpreter.h"

#define JOINED(name, suffix) name##suffix
#define ARENA_BYTES(name) JOINED(name, _arena_bytes)

static uint8_t arena[ARENA_BYTES(NETWORK)];

/* Puts the codes of the next sample into the arena; returns 1, 0 at the end of the input, or -1 if it ends too early. */
static int read_sample(const lglsq_program *program) {
    size_t taken = 0;
    for (int32_t number = 0; number < program->input_count; number++) {
        const lglsq_instruction *input = &program->instructions[program->inputs[number]];
        const size_t size = (size_t)lglsq_count(input) * (size_t)lglsq_bytes(input->type);
        const size_t got = fread(arena + input->place, 1, size, stdin);
        taken += got;
        if (got < size) return taken ? -1 : 0;
    }
    return 1;
}

int main(void) {
    const lglsq_program *program = &NETWORK;
    const int32_t logits = lglsq_count(&program->instructions[program->instruction_count - 1]);
    int state;
    while ((state = read_sample(program)) == 1) {
        lglsq_run(program, arena);
        for (int32_t index = 0; index < logits; index++) {
            const int32_t logit = lglsq_logit(program, arena, index);
            if (fwrite(&logit, sizeof logit, 1, stdout) != 1) return 1;
        }
    }
    if (state < 0) fputs("the input ends in the middle of a sample\n", stderr);
    return state < 0 ? 2 : 0;
}
