# Functions that turn directories of sources into targets.

# planish_sources(OUT DIR...): all .cpp files below the directories; directories need not exist yet.
function(planish_sources out)
    set(found)
    foreach(dir ${ARGN})
        file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${dir}/*.cpp)
        list(APPEND found ${sources})
    endforeach()
    # Code for one instruction set is compiled for it by name; all else stays at the baseline.
    foreach(source ${found})
        if(source MATCHES "_avx2\\.cpp$")
            set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c"
                SKIP_UNITY_BUILD_INCLUSION ON)
        elseif(source MATCHES "_avx512(_vnni)?\\.cpp$")
            set(vnni)
            if(source MATCHES "_vnni\\.cpp$")
                set(vnni ";-mavx512vnni")
            endif()
            set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
                "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx2;-mfma;-mf16c;-mprefer-vector-width=512${vnni}"
                SKIP_UNITY_BUILD_INCLUSION ON)
        endif()
    endforeach()
    set(${out} ${found} PARENT_SCOPE)
endfunction()

# planish_library(NAME DIRS dir... LINK target...): an internal static library; empty directories give an empty library.
function(planish_library name)
    cmake_parse_arguments(arg "" "" "DIRS;LINK" ${ARGN})
    planish_sources(sources ${arg_DIRS})
    if(NOT sources)
        set(sources ${PROJECT_BINARY_DIR}/empty.cpp)
        file(CONFIGURE OUTPUT ${sources} CONTENT "// Stands in for a library without sources.\n")
    endif()
    add_library(${name} STATIC ${sources})
    target_link_libraries(${name} PUBLIC planish_options ${arg_LINK})
endfunction()

# planish_flatbuffers(TARGET DIR): a header NAME_generated.h on the target's include path for each NAME.fbs in DIR.
function(planish_flatbuffers target dir)
    file(GLOB schemas CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${dir}/*.fbs)
    set(out ${PROJECT_BINARY_DIR}/generated/${dir})
    file(MAKE_DIRECTORY ${out})
    set(headers)
    foreach(schema ${schemas})
        get_filename_component(name ${schema} NAME_WE)
        set(header ${out}/${name}_generated.h)
        add_custom_command(OUTPUT ${header} DEPENDS ${schema} VERBATIM
            COMMAND ${PLANISH_FLATC} --cpp --cpp-std c++17 --scoped-enums --gen-object-api --reflect-names
                    -o ${out} ${schema})
        list(APPEND headers ${header})
    endforeach()
    target_sources(${target} PRIVATE ${headers})
    target_include_directories(${target} SYSTEM PUBLIC ${PROJECT_BINARY_DIR}/generated ${out})
endfunction()

# planish_embed(TARGET DIR OUT): OUT.cpp with the text of every file in DIR, compiled into TARGET.
function(planish_embed target dir out)
    file(GLOB files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${dir}/*.cuh ${PROJECT_SOURCE_DIR}/${dir}/*.h)
    set(source ${PROJECT_BINARY_DIR}/generated/${out}.cpp)
    list(JOIN files "|" joined)
    add_custom_command(OUTPUT ${source} VERBATIM DEPENDS ${files} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
        COMMAND ${CMAKE_COMMAND} "-DOUT=${source}" "-DFILES=${joined}" -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake)
    target_sources(${target} PRIVATE ${source})
endfunction()
