/* The C ABI: describe PLAN [DIMS...] prints what a plan takes and gives, runs it on zeros and prints the first values.
 * DIMS are the dimensions of each input in turn, such as 4x128; without them open ones are 1. Links libplanish_runtime
 * alone. */
#include <planish/planish.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TENSORS 16
#define MAX_RANK 8

static int failed(planish_status status) {
    if (status == PLANISH_OK) return 0;
    fprintf(stderr, "%s: %s\n%s\n", planish_status_name(status), planish_last_error_message(),
            planish_last_error_hint());
    return 1;
}

static void print_info(const char* kind, const planish_tensor_info* info) {
    printf("%s %s: dtype %d [", kind, info->name, (int)info->dtype);
    for (int i = 0; i < info->rank; ++i) printf("%s%s", i ? ", " : "", info->symbols[i]);
    printf("]\n");
}

/* Bytes of one element of an ONNX TensorProto.DataType, for those that this example feeds. */
static size_t element_bytes(int dtype) {
    switch (dtype) {
        case 1:
        case 6:
            return 4; /* float32, int32 */
        case 7:
        case 11:
            return 8; /* int64, float64 */
        case 2:
        case 3:
        case 9:
            return 1; /* uint8, int8, bool */
        default:
            return 2;
    }
}

int main(int argc, char** argv) {
    planish_engine* engine = NULL;
    planish_context* context = NULL;
    planish_tensor inputs[MAX_TENSORS] = {{0}}, outputs[MAX_TENSORS] = {{0}};
    int64_t dims[MAX_TENSORS][MAX_RANK];
    if (argc < 2) {
        fprintf(stderr, "usage: %s PLAN [DIMS...]\n", argv[0]);
        return 2;
    }
    if (failed(planish_load(argv[1], NULL, &engine)) || failed(planish_context_create(engine, &context))) return 1;
    const size_t input_count = planish_input_count(engine), output_count = planish_output_count(engine);
    if (input_count > MAX_TENSORS || output_count > MAX_TENSORS) return 1;

    for (size_t i = 0; i < input_count; ++i) {
        planish_tensor_info info;
        if (failed(planish_input_info(engine, i, &info)) || info.rank > MAX_RANK) return 1;
        print_info("input", &info);
        size_t bytes = element_bytes(info.dtype);
        char* text = argc > 2 + (int)i ? argv[2 + i] : NULL;
        for (int d = 0; d < info.rank; ++d) {
            dims[i][d] = info.dims[d] < 0 ? 1 : info.dims[d];
            if (text && *text) dims[i][d] = strtoll(text, &text, 10);
            if (text && *text == 'x') ++text;
            if (dims[i][d] < 1) return 1;
            bytes *= (size_t)dims[i][d];
        }
        inputs[i] = (planish_tensor){info.name, info.dtype, info.rank, dims[i], calloc(1, bytes), bytes};
    }
    for (size_t i = 0; i < output_count; ++i) {
        planish_tensor_info info;
        if (failed(planish_output_info(engine, i, &info))) return 1;
        print_info("output", &info);
        outputs[i].name = info.name; /* data stays NULL: the context's memory holds the result */
    }
    if (failed(planish_run(context, inputs, input_count, outputs, output_count))) return 1;
    for (size_t i = 0; i < output_count; ++i) {
        printf("%s:", outputs[i].name);
        if (outputs[i].dtype == 1)
            for (size_t e = 0; e < 5 && e < outputs[i].bytes / sizeof(float); ++e)
                printf(" %g", (double)((const float*)outputs[i].data)[e]);
        printf("\n");
    }
    for (size_t i = 0; i < input_count; ++i) free(inputs[i].data);
    planish_context_free(context);
    planish_engine_free(engine);
    return 0;
}
