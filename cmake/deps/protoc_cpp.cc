// protoc that only generates C++, enough for onnx.proto.
#include <google/protobuf/compiler/command_line_interface.h>
#include <google/protobuf/compiler/cpp/generator.h>

int main(int argc, char** argv) {
    google::protobuf::compiler::CommandLineInterface cli;
    google::protobuf::compiler::cpp::CppGenerator generator;
    cli.RegisterGenerator("--cpp_out", "--cpp_opt", &generator, "Generate C++ header and source.");
    return cli.Run(argc, argv);
}
