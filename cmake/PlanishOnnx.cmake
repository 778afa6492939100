# planish::onnx_deps: ONNX and protobuf as static, position-independent libraries with hidden symbols, from the prefix
# that scripts/build-deps.sh fills once: $PLANISH_DEPS_DIR, or .deps in the source tree.
set(PLANISH_DEPS_DIR "$ENV{PLANISH_DEPS_DIR}" CACHE PATH "Prefix of the dependencies that scripts/build-deps.sh builds")
if(NOT PLANISH_DEPS_DIR)
    set(PLANISH_DEPS_DIR ${PROJECT_SOURCE_DIR}/.deps CACHE PATH "" FORCE)
endif()

if(NOT EXISTS ${PLANISH_DEPS_DIR}/onnx.cmake)
    message(STATUS "ONNX is not in ${PLANISH_DEPS_DIR}: building it once (a few minutes)")
    set(environment PLANISH_DEPS_DIR=${PLANISH_DEPS_DIR} CXX=${CMAKE_CXX_COMPILER})
    if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.26)
        list(APPEND environment PLANISH_CMAKE=${CMAKE_COMMAND})
    endif()
    if(SKBUILD)  # the isolated build environment's own interpreter, which has pip
        list(APPEND environment PLANISH_PYTHON=${PYTHON_EXECUTABLE})
    endif()
    execute_process(COMMAND ${CMAKE_COMMAND} -E env ${environment} ${PROJECT_SOURCE_DIR}/scripts/build-deps.sh
                    COMMAND_ERROR_IS_FATAL ANY)
endif()
include(${PLANISH_DEPS_DIR}/onnx.cmake)
