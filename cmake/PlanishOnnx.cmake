# planish::onnx_deps: ONNX and protobuf as static, position-independent libraries with hidden symbols, from the prefix
# that scripts/build-deps.sh fills once: $PLANISH_DEPS_DIR, or .deps in the source tree.
set(PLANISH_DEPS_DIR "$ENV{PLANISH_DEPS_DIR}" CACHE PATH "Prefix of the dependencies that scripts/build-deps.sh builds")
if(NOT PLANISH_DEPS_DIR)
    set(PLANISH_DEPS_DIR ${PROJECT_SOURCE_DIR}/.deps CACHE PATH "" FORCE)
endif()

if(NOT EXISTS ${PLANISH_DEPS_DIR}/onnx.cmake)
    message(WARNING "${PLANISH_DEPS_DIR}: no ONNX there yet (scripts/build-deps.sh builds it); the importer is left out")
    return()
endif()
include(${PLANISH_DEPS_DIR}/onnx.cmake)
