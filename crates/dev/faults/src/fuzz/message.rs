//! Valid messages of the contract, made from its descriptor.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

use crate::Rng;

/// Messages of a kind that are made as seeds.
const SEEDS: u64 = 24;

/// Texts that some field somewhere takes.
const TEXTS: &[&str] = &[
    "",
    "a",
    "bus",
    "local.note",
    "local.>",
    "id-1",
    "bus:1",
    "0123456789abcdef.1",
    "0123456789abcdef.1/3",
    "private",
    "2026-01-01",
    "daily",
    "retry",
    "{\"payload\":\"\",\"payloadType\":\"\",\"signatures\":[]}",
    "/var/tmp/x",
    "\u{e9}\u{1f980}",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "line\nline",
    "mirror.bus.v1.BusService",
];

fn pool() -> Option<&'static DescriptorPool> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(mirror_contract::DESCRIPTOR).ok()).as_ref()
}

/// Returns valid encodings of a message, the empty one among them.
pub(super) fn seeds(name: &str) -> Vec<Vec<u8>> {
    let Some(message) = pool().and_then(|pool| pool.get_message_by_name(name)) else {
        return vec![Vec::new()];
    };
    let mut all = vec![Vec::new()];
    all.extend((0..SEEDS).map(|n| made(&message, &mut Rng::at(1, n), 0).encode_to_vec()));
    all
}

/// Returns the names of a package's requests.
pub(super) fn requests(package: &str) -> Vec<String> {
    let services = pool().into_iter().flat_map(|pool| pool.services().collect::<Vec<_>>());
    services
        .filter(|service| service.parent_file().package_name() == package)
        .flat_map(|service| service.methods().map(|m| m.input().full_name().to_owned()).collect::<Vec<_>>())
        .collect()
}

fn made(message: &MessageDescriptor, rng: &mut Rng, depth: usize) -> DynamicMessage {
    let mut made = DynamicMessage::new(message.clone());
    for field in message.fields() {
        if rng.one_in(4) {
            continue;
        }
        if let Some(value) = value(&field, rng, depth) {
            // A second member of a oneof takes the place of the first.
            made.set_field(&field, value);
        }
    }
    made
}

fn value(field: &FieldDescriptor, rng: &mut Rng, depth: usize) -> Option<Value> {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { return None };
        let value = single(&entry.map_entry_value_field(), rng, depth + 1)?;
        // Every map of the contract has texts for keys.
        let key = MapKey::String((*rng.pick(TEXTS)).to_owned());
        return matches!(entry.map_entry_key_field().kind(), Kind::String)
            .then(|| Value::Map(HashMap::from([(key, value)])));
    }
    if field.is_list() {
        let items = (0..rng.below(4)).filter_map(|_| single(field, rng, depth + 1)).collect();
        return Some(Value::List(items));
    }
    single(field, rng, depth)
}

fn single(field: &FieldDescriptor, rng: &mut Rng, depth: usize) -> Option<Value> {
    let bits = if rng.one_in(4) { rng.bits() } else { rng.bits() % 300 };
    let small = u32::try_from(bits & 0xffff_ffff).unwrap_or(0);
    Some(match field.kind() {
        Kind::Message(message) => {
            if depth > 4 {
                return None;
            }
            Value::Message(made(&message, rng, depth + 1))
        }
        Kind::Enum(kind) => {
            let numbers: Vec<i32> = kind.values().map(|v| v.number()).collect();
            Value::EnumNumber(*rng.pick(&numbers))
        }
        Kind::String => Value::String((*rng.pick(TEXTS)).to_owned()),
        Kind::Bytes => Value::Bytes(rng.pick(TEXTS).as_bytes().to_vec().into()),
        Kind::Bool => Value::Bool(rng.one_in(2)),
        Kind::Double => Value::F64(f64::from_bits(rng.bits())),
        Kind::Float => Value::F32(f32::from_bits(small)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(small.cast_signed()),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(bits.cast_signed()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(small),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(bits),
    })
}
