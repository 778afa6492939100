# planish::onnx_deps: the ONNX C++ library of this prefix with the protobuf below it.
find_package(Threads REQUIRED)
add_library(planish_onnx_vendor STATIC IMPORTED)
add_library(planish_protobuf STATIC IMPORTED)
set_target_properties(planish_protobuf PROPERTIES IMPORTED_LOCATION ${CMAKE_CURRENT_LIST_DIR}/lib/libplanish_protobuf.a
    INTERFACE_LINK_LIBRARIES Threads::Threads)
set_target_properties(planish_onnx_vendor PROPERTIES
    IMPORTED_LOCATION ${CMAKE_CURRENT_LIST_DIR}/lib/libplanish_onnx_vendor.a)
add_library(planish_onnx_deps INTERFACE)
target_include_directories(planish_onnx_deps SYSTEM INTERFACE ${CMAKE_CURRENT_LIST_DIR}/include)
target_compile_definitions(planish_onnx_deps INTERFACE ONNX_ML=1 ONNX_NAMESPACE=planish_onnx
    __STDC_FORMAT_MACROS)
# The operator schemas register themselves from static initialisers, which only a whole archive keeps.
target_link_libraries(planish_onnx_deps INTERFACE "$<LINK_LIBRARY:WHOLE_ARCHIVE,planish_onnx_vendor>" planish_protobuf)
add_library(planish::onnx_deps ALIAS planish_onnx_deps)
