//! Compiles `proto/` with protox (no protoc) and writes the code, the descriptor and the table of methods.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost_reflect::{
    DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage as _, ServiceDescriptor,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../../proto").canonicalize()?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed={}", root.display());

    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    // The encoded bytes keep the custom options; decoding through prost-types would drop them.
    let encoded = compiler.encode_file_descriptor_set();
    std::fs::write(out.join("descriptor.bin"), &encoded)?;

    tonic_prost_build::configure()
        .build_transport(false)
        .include_file("mirror.rs")
        .bytes(".mirror.bus.v1.NewEvent.payload")
        .bytes(".mirror.bus.v1.Event.payload")
        .bytes(".mirror.blobs.v1")
        .compile_fds(compiler.file_descriptor_set())?;

    let pool = DescriptorPool::decode(encoded.as_slice())?;
    std::fs::write(out.join("methods.rs"), methods(&pool)?)?;
    std::fs::write(out.join("decoders.rs"), decoders(&pool)?)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

fn methods(pool: &DescriptorPool) -> Result<String> {
    let mut specs = Vec::new();
    let mut services = String::from("&[\n");
    let mut all: Vec<ServiceDescriptor> =
        pool.services().filter(|s| s.full_name().starts_with("mirror.")).collect();
    all.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    for service in all {
        let options = service.options();
        let rule = match extension(pool, &options, "mirror.options.v1.service") {
            Some(m) => name_of(&m, "when_away")?,
            None => "WHEN_AWAY_UNSPECIFIED".to_owned(),
        };
        writeln!(services, "ServiceSpec {{ name: {:?}, when_away: {:?} }},", service.full_name(), rule)?;
        for method in service.methods() {
            specs.push(method_spec(pool, &service, &method)?);
        }
    }
    specs.sort();
    let text = format!("&[{}]", specs.join(",\n"));
    services.push_str("]\n");
    Ok(format!(
        "/// Every RPC of the contract.\npub const METHODS: &[MethodSpec] = {text};\n\
         /// Every service of the contract.\npub const SERVICES: &[ServiceSpec] = {services};\n"
    ))
}

/// One row a message that is a request or an answer.
fn decoders(pool: &DescriptorPool) -> Result<String> {
    let methods = pool.services().filter(|s| s.full_name().starts_with("mirror.")).flat_map(|s| {
        let all: Vec<MethodDescriptor> = s.methods().collect();
        all
    });
    let names: std::collections::BTreeSet<String> = methods
        .flat_map(|m| [m.input(), m.output()])
        .map(|m| m.full_name().to_owned())
        .filter(|name| name.starts_with("mirror."))
        .collect();
    let mut text = String::from("/// Every request and every answer of the contract, with its decoder.\n");
    text.push_str("#[doc(hidden)]\npub const DECODERS: &[Decoder] = &[\n");
    for name in names {
        let path = name.replace('.', "::");
        writeln!(text, "({name:?}, |bytes| decode::<{path}>(bytes).is_some()),")?;
    }
    text.push_str("];\n");
    Ok(text)
}

fn method_spec(
    pool: &DescriptorPool,
    service: &ServiceDescriptor,
    method: &MethodDescriptor,
) -> Result<String> {
    let path = format!("/{}/{}", service.full_name(), method.name());
    let options = method.options();
    let (scope, risk, action, halted, idempotent, deadline) =
        match extension(pool, &options, "mirror.options.v1.method") {
            Some(m) => (
                string_of(&m, "scope")?,
                name_of(&m, "risk")?,
                string_of(&m, "action_field")?,
                name_of(&m, "when_halted")?,
                m.get_field_by_name("idempotent").and_then(|v| v.as_bool()).unwrap_or(false),
                m.get_field_by_name("deadline_ms").and_then(|v| v.as_u32()).unwrap_or(0),
            ),
            None => Default::default(),
        };
    Ok(format!(
        "MethodSpec {{ path: {path:?}, service: {:?}, name: {:?}, scope: {scope:?}, risk: {risk:?}, action_field: {action:?}, \
         when_halted: {halted:?}, idempotent: {idempotent}, deadline_ms: {deadline}, client_streaming: {}, \
         server_streaming: {} }}",
        service.full_name(),
        method.name(),
        method.is_client_streaming(),
        method.is_server_streaming(),
    ))
}

fn extension(pool: &DescriptorPool, options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name(name)?;
    if !options.has_extension(&extension) {
        return None;
    }
    options.get_extension(&extension).as_message().cloned()
}

fn string_of(message: &DynamicMessage, field: &str) -> Result<String> {
    let value = message.get_field_by_name(field).ok_or_else(|| format!("no option field {field}"))?;
    Ok(value.as_str().ok_or_else(|| format!("option field {field} is not a string"))?.to_owned())
}

fn name_of(message: &DynamicMessage, field: &str) -> Result<String> {
    let descriptor =
        message.descriptor().get_field_by_name(field).ok_or_else(|| format!("no option field {field}"))?;
    let number = message.get_field(&descriptor).as_enum_number().ok_or("not an enum")?;
    let kind = descriptor.kind();
    let name = kind.as_enum().and_then(|e| e.get_value(number)).ok_or("unknown enum value")?;
    Ok(name.name().to_owned())
}
