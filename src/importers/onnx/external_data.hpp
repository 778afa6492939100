// Files beside the model that hold tensor data: found only inside the model's folder, mapped once each.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "base/mapped_file.hpp"

namespace planish::onnx_import {

class ExternalData {
  public:
    /// `folder` is the only place where data may lie. Empty: there is none.
    explicit ExternalData(std::filesystem::path folder) : folder_(std::move(folder)) {}

    /// The file at `location` (relative to the folder). Refuses absolute paths, "..", and links that lead outside.
    std::shared_ptr<const MappedFile> file(const std::string& location, const std::string& tensor);

  private:
    std::filesystem::path folder_;
    std::map<std::string, std::shared_ptr<const MappedFile>> files_;
};

}  // namespace planish::onnx_import
