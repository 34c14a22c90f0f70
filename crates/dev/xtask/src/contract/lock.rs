//! Renders the contract as sorted lines of text.

use std::collections::BTreeSet;

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor, Value,
};

const HEAD: &str = "\
# The contract as text: each message, field number, enum value and RPC with its options.
# Rendered by `cargo xtask contract`; a line of a stable package (v1, v2, ...) may be added and never taken away.
";

/// Returns the lock of a contract.
pub fn render(pool: &DescriptorPool) -> String {
    let mut lines = BTreeSet::new();
    let ours = |name: &str| name.starts_with("mirror.");
    for message in pool.all_messages().filter(|m| ours(m.full_name()) && !m.is_map_entry()) {
        message_lines(&message, &mut lines);
    }
    for kind in pool.all_enums().filter(|e| ours(e.full_name())) {
        enum_lines(&kind, &mut lines);
    }
    for extension in pool.all_extensions().filter(|e| ours(e.full_name())) {
        lines.insert(format!(
            "extension {} = {} of {}",
            extension.full_name(),
            extension.number(),
            extension.containing_message().full_name()
        ));
    }
    for service in pool.services().filter(|s| ours(s.full_name())) {
        service_lines(pool, &service, &mut lines);
    }
    let mut text = HEAD.to_owned();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn message_lines(message: &MessageDescriptor, lines: &mut BTreeSet<String>) {
    lines.insert(format!("message {}", message.full_name()));
    for field in message.fields() {
        lines.insert(format!(
            "{} = {} {} {}",
            field.full_name(),
            field.number(),
            label(&field),
            type_of(&field)
        ));
    }
}

/// Presence is part of the contract: `implicit` cannot tell zero from absent.
fn label(field: &FieldDescriptor) -> String {
    if field.cardinality() == Cardinality::Repeated {
        return "repeated".to_owned();
    }
    match field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) {
        Some(oneof) => format!("oneof({})", oneof.name()),
        None if field.supports_presence() => "optional".to_owned(),
        None => "implicit".to_owned(),
    }
}

fn type_of(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            format!(
                "map<{}, {}>",
                type_of(&entry.map_entry_key_field()),
                type_of(&entry.map_entry_value_field())
            )
        }
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(kind) => kind.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_ascii_lowercase(),
    }
}

fn enum_lines(kind: &EnumDescriptor, lines: &mut BTreeSet<String>) {
    for value in kind.values() {
        lines.insert(format!("enum {}.{} = {}", kind.full_name(), value.name(), value.number()));
    }
}

fn service_lines(pool: &DescriptorPool, service: &ServiceDescriptor, lines: &mut BTreeSet<String>) {
    let rule = option(pool, &service.options(), "mirror.options.v1.service")
        .map_or_else(|| "undeclared".to_owned(), |options| text_of(&options, "when_away"));
    lines.insert(format!("service {} when_away={rule}", service.full_name()));
    for method in service.methods() {
        lines.insert(method_line(pool, service, &method));
    }
}

fn method_line(pool: &DescriptorPool, service: &ServiceDescriptor, method: &MethodDescriptor) -> String {
    let stream = |streams: bool| if streams { "stream " } else { "" };
    let mut line = format!(
        "rpc {}/{} ({}{}) -> ({}{})",
        service.full_name(),
        method.name(),
        stream(method.is_client_streaming()),
        method.input().full_name(),
        stream(method.is_server_streaming()),
        method.output().full_name()
    );
    let Some(options) = option(pool, &method.options(), "mirror.options.v1.method") else {
        line.push_str(" undeclared");
        return line;
    };
    for name in ["scope", "risk", "when_halted"] {
        line.push_str(&format!(" {name}={}", text_of(&options, name)));
    }
    let action = text_of(&options, "action_field");
    if !action.is_empty() {
        line.push_str(&format!(" action={action}"));
    }
    if options.get_field_by_name("idempotent").and_then(|v| v.as_bool()) == Some(true) {
        line.push_str(" idempotent");
    }
    match text_of(&options, "deadline_ms").as_str() {
        "0" => {}
        deadline => line.push_str(&format!(" deadline={deadline}ms")),
    }
    line
}

fn option(pool: &DescriptorPool, options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name(name)?;
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).as_message().cloned())
        .flatten()
}

fn text_of(message: &DynamicMessage, name: &str) -> String {
    let Some(value) = message.get_field_by_name(name) else { return String::new() };
    match value.as_ref() {
        Value::String(text) => text.clone(),
        Value::U32(number) => number.to_string(),
        Value::EnumNumber(number) => {
            let field = prost_reflect::ReflectMessage::descriptor(message).get_field_by_name(name);
            let kind = field.map(|f| f.kind());
            kind.as_ref()
                .and_then(|k| k.as_enum())
                .and_then(|e| e.get_value(*number))
                .map_or_else(|| number.to_string(), |v| v.name().to_owned())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_show_numbers_presence_and_options() {
        let text = super::render(&crate::contract::pool().unwrap());
        for line in [
            "mirror.bus.v1.AppendRequest.event = 1 optional mirror.bus.v1.NewEvent",
            "mirror.bus.v1.NewEvent.labels = 7 repeated string",
            "mirror.bus.v1.GetEventRequest.seq = 1 oneof(by) uint64",
            "enum mirror.bus.v1.PayloadType.PAYLOAD_TYPE_JSON = 1",
            "message mirror.bus.v1.GetStatusRequest",
            "service mirror.bus.v1.BusService when_away=HOLD",
            "rpc mirror.bus.v1.BusService/Append (mirror.bus.v1.AppendRequest) -> (mirror.bus.v1.AppendResponse) \
             scope=bus.append risk=LOW when_halted=ALLOW idempotent deadline=30000ms",
            "extension mirror.options.v1.method = 50001 of google.protobuf.MethodOptions",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
    }
}
