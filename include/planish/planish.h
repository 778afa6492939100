/* Planish's C ABI: load a plan, ask for its inputs and outputs, run it. No exception crosses it.
 *
 *     planish_engine* engine;
 *     if (planish_load("model.plan", NULL, &engine) != PLANISH_OK) puts(planish_last_error_message());
 *
 * Functions return a status; on failure the calling thread's last error tells code, message and hint. Every handle is
 * freed by its own function; freeing NULL does nothing. An engine may be used by many threads, a context by one at a
 * time. Strings and arrays that are handed out belong to the handle they came from.
 */
#ifndef PLANISH_H
#define PLANISH_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define PLANISH_C_API __attribute__((visibility("default")))
#else
#define PLANISH_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum planish_status {
    PLANISH_OK = 0,
    PLANISH_INVALID_ARGUMENT = 1,
    PLANISH_INVALID_MODEL = 2,
    PLANISH_INVALID_PLAN = 3,
    PLANISH_UNSUPPORTED = 4,
    PLANISH_NOT_FOUND = 5,
    PLANISH_IO_ERROR = 6,
    PLANISH_VERIFICATION_FAILED = 7,
    PLANISH_RESOURCE_EXHAUSTED = 8,
    PLANISH_INTERNAL = 9
} planish_status;

typedef struct planish_engine planish_engine;
typedef struct planish_context planish_context;

/* Zero-initialise, then set what you need. */
typedef struct planish_load_options {
    const char* device;    /* "auto" (or NULL), "cpu" */
    int32_t threads;       /* of one run; 0: one for each core that the process may use */
    int32_t cached_shapes; /* input shapes whose programs are kept; 0: the default of 16 */
} planish_load_options;

/* What an engine expects or delivers. `dims[i]` is -1 where the dimension is open; `symbols[i]` then says its name or
 * expression ("N", "2*S + 1"), and the number as text where it is fixed. `rank` is -1 when even that is open. */
typedef struct planish_tensor_info {
    const char* name;
    int32_t dtype; /* ONNX TensorProto.DataType: 1 float32, 2 uint8, 3 int8, 6 int32, 7 int64, 9 bool, ... */
    int32_t rank;
    const int64_t* dims;
    const char* const* symbols;
} planish_tensor_info;

/* Dense row-major memory. As an output: `data` NULL asks for memory of the context, valid until its next run; otherwise
 * `data` has room for `bytes`. After the run dtype, rank, dims, data and bytes describe the result. */
typedef struct planish_tensor {
    const char* name;
    int32_t dtype;
    int32_t rank;
    const int64_t* dims;
    void* data;
    size_t bytes;
} planish_tensor;

PLANISH_C_API const char* planish_version(void);

/* The calling thread's last failure; "" and PLANISH_OK before the first one. Valid until the thread's next failure. */
PLANISH_C_API planish_status planish_last_error_code(void);
PLANISH_C_API const char* planish_last_error_message(void);
PLANISH_C_API const char* planish_last_error_hint(void);
/* "invalid_argument", ... */
PLANISH_C_API const char* planish_status_name(planish_status status);

/* `options` may be NULL. */
PLANISH_C_API planish_status planish_load(const char* path, const planish_load_options* options,
                                          planish_engine** engine);
/* The bytes are copied where that is needed; the caller may free them after the call. */
PLANISH_C_API planish_status planish_load_bytes(const void* data, size_t size, const planish_load_options* options,
                                                planish_engine** engine);
PLANISH_C_API void planish_engine_free(planish_engine* engine);

PLANISH_C_API size_t planish_input_count(const planish_engine* engine);
PLANISH_C_API size_t planish_output_count(const planish_engine* engine);
PLANISH_C_API planish_status planish_input_info(const planish_engine* engine, size_t index, planish_tensor_info* info);
PLANISH_C_API planish_status planish_output_info(const planish_engine* engine, size_t index, planish_tensor_info* info);

/* A context keeps its engine's plan alive: the engine handle may be freed before it. */
PLANISH_C_API planish_status planish_context_create(const planish_engine* engine, planish_context** context);
PLANISH_C_API void planish_context_free(planish_context* context);

/* Inputs and outputs in any order, matched by name; outputs that are not asked for are not delivered. */
PLANISH_C_API planish_status planish_run(planish_context* context, const planish_tensor* inputs, size_t input_count,
                                         planish_tensor* outputs, size_t output_count);

#ifdef __cplusplus
}
#endif

#endif
