// Classify a photograph: classify MODEL IMAGE.ppm [CLASSES.txt]
//
// MODEL is a plan, or an ONNX file, which is built first. It takes float32 [N, 3, H, W] pixels (value - 127) / 128 and
// gives a score for each class. IMAGE is a binary PPM (`convert cat.jpg cat.ppm`); CLASSES has one name a line.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <planish/planish.hpp>

struct Image {
    int width = 0, height = 0;
    std::vector<unsigned char> rgb;
};

static Image read_ppm(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    Image image;
    int largest = 0;
    file >> magic >> image.width >> image.height >> largest;
    file.get();
    if (!file || magic != "P6" || largest != 255 || image.width < 1 || image.height < 1)
        throw planish::Error(planish::ErrorCode::invalid_argument, std::string(path) + " is not an 8-bit binary PPM");
    image.rgb.resize(size_t(3) * size_t(image.width) * size_t(image.height));
    if (!file.read(reinterpret_cast<char*>(image.rgb.data()), std::streamsize(image.rgb.size())))
        throw planish::Error(planish::ErrorCode::invalid_argument,
                             std::string(path) + " is shorter than its header says");
    return image;
}

// The largest centred square, each output pixel the mean of the input pixels below it.
static planish::Tensor preprocess(const Image& image, int64_t size) {
    planish::Tensor tensor(planish::DType::f32, {1, 3, size, size});
    const int64_t side = std::min(image.width, image.height);
    const int64_t left = (image.width - side) / 2, top = (image.height - side) / 2;
    float* out = tensor.data<float>().data();
    for (int64_t c = 0; c < 3; ++c)
        for (int64_t y = 0; y < size; ++y)
            for (int64_t x = 0; x < size; ++x) {
                const int64_t y0 = y * side / size, y1 = std::max(y0 + 1, (y + 1) * side / size);
                const int64_t x0 = x * side / size, x1 = std::max(x0 + 1, (x + 1) * side / size);
                int64_t sum = 0;
                for (int64_t v = y0; v < y1; ++v)
                    for (int64_t u = x0; u < x1; ++u)
                        sum += image.rgb[size_t(((top + v) * image.width + left + u) * 3 + c)];
                *out++ = (float(sum) / float((y1 - y0) * (x1 - x0)) - 127) / 128;
            }
    return tensor;
}

int main(int argc, char** argv) try {
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s MODEL IMAGE.ppm [CLASSES.txt]\n", argv[0]);
        return 2;
    }
    const std::filesystem::path model = argv[1];
    const planish::Engine engine =
        model.extension() == ".onnx" ? planish::load(planish::build(model)) : planish::load(model);
    const planish::TensorInfo& input = engine.inputs()[0];
    const planish::Tensor image = preprocess(read_ppm(argv[2]), std::stoll(input.shape.at(2)));
    const planish::Tensor scores = engine.run({{input.name, image}}).at(engine.outputs()[0].name);

    std::vector<std::string> classes;
    if (argc > 3)
        for (std::ifstream file(argv[3]); std::getline(file, classes.emplace_back());) {
        }
    std::vector<size_t> order(size_t(scores.size()));
    std::iota(order.begin(), order.end(), size_t(0));
    const std::span<const float> score = scores.data<float>();
    const auto best = order.begin() + std::min<int64_t>(5, scores.size());
    std::partial_sort(order.begin(), best, order.end(), [&](size_t a, size_t b) { return score[a] > score[b]; });
    for (auto i = order.begin(); i != best; ++i)
        std::printf("%8.3f  %s\n", double(score[*i]),
                    *i < classes.size() ? classes[*i].c_str() : std::to_string(*i).c_str());
    return 0;
} catch (const planish::Error& error) {
    std::fprintf(stderr, "%s\n%s\n", error.message().c_str(), error.hint().c_str());
    return 1;
}
