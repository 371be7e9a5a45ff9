#include "drivers/perception.h"

#include "common/stopwatch.h"

namespace actquant {
namespace {

void set_if_used(Stage& stage, const std::string& name, const ArrayView& value) {
    if (stage.needs_input(name)) {
        stage.set_input(name, value);
    }
}

std::vector<float> embed_image(const PolicySpec& spec, Stage& vision, const ImageView& image,
                               const std::string& camera) {
    std::vector<float> pixels = preprocess_image(spec.image, image, camera);
    Shape shape = {1, 3, spec.image.height, spec.image.width};
    if (vision.needs_input("image")) {
        vision.set_input("image", {DType::f32, shape, pixels.data()});
    }
    vision.run();
    return floats_of(vision, "embedding");
}

void embed_images(const PolicySpec& spec, Stages& stages, const PolicyInput& input) {
    for (size_t k = 0; k < input.images.size(); k++) {
        const Shape& shape = stages.embedding()->shape;
        const ImageView& image = input.images[k];
        uint8_t is_present = image.pixels != nullptr;
        std::vector<float> embedding(element_count(shape), 0.0f);
        if (is_present) {
            const std::string& camera = spec.cameras[k % spec.cameras.size()];
            embedding = embed_image(spec, *stages.vision(), image, camera);
        }
        std::string index = std::to_string(k);
        set_if_used(stages.prefix(), "image_embedding_" + index,
                    {DType::f32, shape, embedding.data()});
        set_if_used(stages.prefix(), "image_mask_" + index, {DType::b8, {1}, &is_present});
    }
}

} // namespace

std::vector<float> floats_of(const Stage& stage, const std::string& output) {
    Array array = stage.output(output);
    const float* data = array.as<float>();
    return std::vector<float>(data, data + element_count(array.shape));
}

void perceive(const PolicySpec& spec, Stages& stages, const PolicyInput& input, Timings& timings) {
    Stopwatch prepare_watch;
    int64_t prompt_length = static_cast<int64_t>(input.tokens.size());
    stages.prepare(prompt_length);
    double prepare_ms = prepare_watch.elapsed_ms();

    Stopwatch vision_watch;
    embed_images(spec, stages, input);
    timings.vision_ms = vision_watch.elapsed_ms();

    Stopwatch prefix_watch;
    Stage& prefix = stages.prefix();
    Shape prompt = {1, prompt_length};
    Shape state = {spec.observation_steps, spec.state.padded_dim};
    set_if_used(prefix, "tokens", {DType::i64, prompt, input.tokens.data()});
    set_if_used(prefix, "token_mask", {DType::b8, prompt, input.token_mask.data()});
    set_if_used(prefix, "state", {DType::f32, state, input.state.data()});
    prefix.run();
    timings.prefix_ms = prepare_ms + prefix_watch.elapsed_ms();
}

} // namespace actquant
