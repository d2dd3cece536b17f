//! The canonical proto3 JSON of API messages, from their descriptors.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::DESCRIPTORS;

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(DESCRIPTORS)
            .expect("the committed descriptors are checked by a test")
    })
}

/// `message`, whose full protobuf name is `name`, as canonical JSON. Fields at their default are
/// written too, so that programs find every key.
///
/// # Panics
/// When `name` is not a message of the public API.
pub fn to_json(name: &str, message: &impl Message) -> Value {
    let descriptor = pool().get_message_by_name(name).expect("the name of an API message");
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor, bytes.as_slice())
        .expect("an encoded message decodes by its own descriptor");
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("a message always has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_canonical_proto3() {
        let node = crate::v1::Node {
            name: "nodes/1".into(),
            state: crate::v1::node::State::Active.into(),
            epoch: 7,
            lease_age: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            ..Default::default()
        };
        let json = to_json("fleet.v1.Node", &node);
        assert_eq!(json["state"], "STATE_ACTIVE");
        assert_eq!(json["epoch"], "7", "64-bit integers are strings");
        assert_eq!(json["leaseAge"], "1.500s");
        assert_eq!(json["displayName"], "");
    }
}
