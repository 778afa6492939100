# What users link, run or import: libplanish_runtime.so, libplanish.so, the planish command, the Python module.

# planish_shared(TARGET OUTPUT LIB...): a shared library of the whole of LIB..., exporting only what libplanish.map lets.
function(planish_shared target output)
    add_library(${target} SHARED ${PROJECT_BINARY_DIR}/empty.cpp)
    file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/empty.cpp CONTENT "// Stands in for a library without sources.\n")
    target_include_directories(${target} PUBLIC include)
    target_link_libraries(${target} PRIVATE ${ARGN})
    list(JOIN ARGN "," whole)
    set_target_properties(${target} PROPERTIES LINK_LIBRARY_OVERRIDE "WHOLE_ARCHIVE,${whole}")
    set(map ${PROJECT_SOURCE_DIR}/cmake/libplanish.map)
    target_link_options(${target} PRIVATE -Wl,--version-script=${map} -Wl,--gc-sections -Wl,-z,defs)
    if(PLANISH_SANITIZE)
        target_link_options(${target} PRIVATE -Wl,-z,undefs)
    endif()
    set_target_properties(${target} PROPERTIES OUTPUT_NAME ${output} VERSION ${PROJECT_VERSION}
        SOVERSION ${PROJECT_VERSION_MAJOR} LINK_DEPENDS ${map})
endfunction()

set(PLANISH_RUNTIME_LIBS planish_base planish_ir planish_passes planish_cpu planish_runtime_core)
set(PLANISH_ALL_LIBS ${PLANISH_RUNTIME_LIBS} planish_build)
if(TARGET planish_onnx)
    list(APPEND PLANISH_ALL_LIBS planish_onnx)
endif()

if(PLANISH_SHARED)
    planish_shared(planish_runtime planish_runtime ${PLANISH_RUNTIME_LIBS})
    planish_shared(planish_full planish ${PLANISH_ALL_LIBS})
endif()

planish_sources(PLANISH_CLI_SOURCES src/cli)
if(PLANISH_CLI AND PLANISH_CLI_SOURCES)
    # The verbs form a library of their own so that tests can call them; main.cpp is all that is left outside.
    set(main ${PLANISH_CLI_SOURCES})
    list(FILTER main INCLUDE REGEX "/main\\.cpp$")
    list(FILTER PLANISH_CLI_SOURCES EXCLUDE REGEX "/main\\.cpp$")
    add_library(planish_cli STATIC ${PLANISH_CLI_SOURCES} ${PROJECT_BINARY_DIR}/empty.cpp)
    target_link_libraries(planish_cli PUBLIC planish_build)
    add_executable(planish_command ${main})
    set_target_properties(planish_command PROPERTIES OUTPUT_NAME planish)
    target_link_libraries(planish_command PRIVATE planish_cli)
endif()

planish_sources(PLANISH_PYTHON_SOURCES python/src)
if(PLANISH_PYTHON AND PLANISH_PYTHON_SOURCES)
    find_package(Python 3.9 REQUIRED COMPONENTS Interpreter Development.Module)
    execute_process(COMMAND ${Python_EXECUTABLE} -m nanobind --cmake_dir OUTPUT_STRIP_TRAILING_WHITESPACE
                    OUTPUT_VARIABLE nanobind_ROOT COMMAND_ERROR_IS_FATAL ANY)
    find_package(nanobind CONFIG REQUIRED)
    nanobind_add_module(planish_python NB_STATIC ${PLANISH_PYTHON_SOURCES})
    target_link_libraries(planish_python PRIVATE planish_build)
    target_link_options(planish_python PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/python.map)
    # Built into the package's folder of the build tree, so that PYTHONPATH=build/python imports it without an install.
    set_target_properties(planish_python PROPERTIES OUTPUT_NAME _planish
        LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/python/planish)
    install(TARGETS planish_python LIBRARY DESTINATION planish)
endif()
