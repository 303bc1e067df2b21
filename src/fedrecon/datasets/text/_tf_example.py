"""`tf.train.Example` without TensorFlow: its three messages, declared to the library of protocol buffers.

References:
    TensorFlow, tensorflow/core/example/example.proto and feature.proto, whose field numbers these are.
"""

import functools
from typing import Any

Values = list[bytes] | list[float] | list[int]


def example(data: bytes) -> dict[str, Values]:
    """The features of a serialized example by their names; one without values has an empty list.

    Args:
        data: The bytes of the message.

    Raises:
        ValueError: The bytes are no such message, or are cut short.
    """
    # Imported here: only texts in SQLite files need it.
    from google.protobuf.message import DecodeError

    message = _example_class()()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    features: dict[str, Values] = {}
    for name, feature in message.features.feature.items():
        kind = feature.WhichOneof("kind")
        features[name] = [] if kind is None else list(getattr(feature, kind).value)
    return features


@functools.cache
def _example_class() -> Any:
    """The class of `tf.train.Example` messages.

    Made from a description of its fields instead of code that a compiler of `.proto` files generates, which
    would have to be made for each version of the library. It lies in a pool of its own, so that it does not
    collide with TensorFlow's own, where that is loaded as well.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    lists = {"bytes_list": kinds.TYPE_BYTES, "float_list": kinds.TYPE_FLOAT, "int64_list": kinds.TYPE_INT64}
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(lists.items(), 1):
        title = "".join(word.capitalize() for word in name.split("_"))
        one = file.message_type.add(name=title)
        one.field.add(name="value", number=1, type=kind, label=kinds.LABEL_REPEATED)
        feature.field.add(
            name=name,
            number=number,
            type=kinds.TYPE_MESSAGE,
            type_name=f".tensorflow.{title}",
            label=kinds.LABEL_OPTIONAL,
            oneof_index=0,
        )
    file.message_type.append(feature)
    features = file.message_type.add(name="Features")
    # What `map<string, Feature>` stands for: a message of a key and a value for each entry.
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    for target, name, number, type_name, label in (
        (entry, "value", 2, "Feature", kinds.LABEL_OPTIONAL),
        (features, "feature", 1, "Features.FeatureEntry", kinds.LABEL_REPEATED),
        (file.message_type.add(name="Example"), "features", 1, "Features", kinds.LABEL_OPTIONAL),
    ):
        target.field.add(
            name=name,
            number=number,
            type=kinds.TYPE_MESSAGE,
            type_name=f".tensorflow.{type_name}",
            label=label,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
