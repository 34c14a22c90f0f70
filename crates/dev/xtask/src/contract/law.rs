//! How the contract must be written: names, comments, messages of its own for each RPC.

use std::collections::{HashMap, HashSet};

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FileDescriptor, Kind, MessageDescriptor, ServiceDescriptor,
};

/// Returns where the contract breaks a law, one line each.
pub fn problems(pool: &DescriptorPool) -> Vec<String> {
    let mut found = Found { problems: Vec::new(), messages: HashSet::new() };
    for file in pool.files().filter(|f| f.package_name().starts_with("mirror.")) {
        found.file(&file);
    }
    found.problems
}

struct Found {
    problems: Vec<String>,
    messages: HashSet<String>,
}

/// Comments of one file, by the path of what they stand before.
struct Comments(HashMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptor) -> Self {
        let info = file.file_descriptor_proto().source_code_info.clone().unwrap_or_default();
        let comments = info.location.into_iter().filter_map(|l| {
            let text = l.leading_comments?;
            Some((l.path, text.trim().to_owned()))
        });
        Self(comments.collect())
    }

    fn is_missing(&self, path: &[i32]) -> bool {
        self.0.get(path).is_none_or(|text| !text.ends_with('.') && !text.ends_with(')'))
    }
}

impl Found {
    fn push(&mut self, name: &str, what: impl std::fmt::Display) {
        self.problems.push(format!("{name}: {what}"));
    }

    fn comment(&mut self, comments: &Comments, path: &[i32], name: &str) {
        if comments.is_missing(path) {
            self.push(name, "has no comment above it that ends as a sentence does");
        }
    }

    fn file(&mut self, file: &FileDescriptor) {
        let package = file.package_name();
        let parts: Vec<&str> = package.split('.').collect();
        let noun = match parts[..] {
            ["mirror", noun, version] if version.starts_with('v') => noun,
            _ => return self.push(file.name(), format_args!("package {package} is not mirror.<noun>.v<N>")),
        };
        let folder = format!("mirror/{noun}/{}/", parts[2]);
        let stem = file.name().strip_prefix(&folder).and_then(|name| name.strip_suffix(".proto"));
        let Some(stem) = stem else {
            return self.push(file.name(), format_args!("package {package} must stand in {folder}"));
        };
        let comments = Comments::of(file);
        for service in file.services() {
            let expected = format!("{}Service", pascal(stem));
            if service.name() != expected {
                self.push(service.full_name(), format_args!("the service of {} is {expected}", file.name()));
            }
            self.service(&comments, &service);
        }
        for message in file.messages() {
            self.message(&comments, &message);
        }
        for kind in file.enums() {
            self.enumeration(&comments, &kind);
        }
    }

    fn service(&mut self, comments: &Comments, service: &ServiceDescriptor) {
        self.comment(comments, service.path(), service.full_name());
        for method in service.methods() {
            let full = method.full_name().to_owned();
            self.comment(comments, method.path(), &full);
            for (message, suffix) in [(method.input(), "Request"), (method.output(), "Response")] {
                let expected = format!("{}.{}{suffix}", service.package_name(), method.name());
                if message.full_name() != expected {
                    self.push(
                        &full,
                        format_args!("takes or returns {}, not {expected}", message.full_name()),
                    );
                } else if !self.messages.insert(expected) {
                    self.push(&full, format_args!("shares {} with another RPC", message.full_name()));
                }
            }
        }
    }

    fn message(&mut self, comments: &Comments, message: &MessageDescriptor) {
        self.comment(comments, message.path(), message.full_name());
        for field in message.fields() {
            let full = field.full_name().to_owned();
            self.comment(comments, field.path(), &full);
            let snake = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            if !field.name().bytes().all(snake) || !field.name().starts_with(|c: char| c.is_ascii_lowercase())
            {
                self.push(&full, "is not snake_case");
            }
            if let Kind::Message(kind) = field.kind() {
                let name = kind.full_name();
                let known = ["google.protobuf.Timestamp", "google.protobuf.Duration"];
                if name.starts_with("google.") && !known.contains(&name) && !kind.is_map_entry() {
                    self.push(&full, format_args!("is a {name}; of these types only {known:?} are used"));
                }
            }
        }
        for oneof in message.oneofs().filter(|o| !o.is_synthetic()) {
            self.comment(comments, oneof.path(), oneof.full_name());
        }
        for child in message.child_messages().filter(|m| !m.is_map_entry()) {
            self.message(comments, &child);
        }
        for kind in message.child_enums() {
            self.enumeration(comments, &kind);
        }
    }

    fn enumeration(&mut self, comments: &Comments, kind: &EnumDescriptor) {
        self.comment(comments, kind.path(), kind.full_name());
        let prefix = shout(kind.name());
        // The values of the options are written at each RPC, where a prefix would only be noise.
        let is_option = kind.package_name() == "mirror.options.v1";
        for value in kind.values() {
            let full = format!("{}.{}", kind.full_name(), value.name());
            self.comment(comments, value.path(), &full);
            if value.number() == 0 && value.name() != format!("{prefix}_UNSPECIFIED") {
                self.push(&full, format_args!("zero must be {prefix}_UNSPECIFIED"));
            } else if !is_option && !value.name().starts_with(&format!("{prefix}_")) {
                self.push(&full, format_args!("must begin with {prefix}_"));
            }
        }
    }
}

/// Returns a noun of the contract as a type's name: `vault_indexer` as `VaultIndexer`.
pub fn pascal(noun: &str) -> String {
    let words = noun.split(['_', '-']).map(|word| {
        let mut chars = word.chars();
        chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
    });
    words.collect()
}

/// Returns a type's name in capitals: `PayloadType` as `PAYLOAD_TYPE`.
fn shout(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::{
        DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
        FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
        SourceCodeInfo, source_code_info::Location,
    };

    fn message(name: &str, fields: &[&str]) -> DescriptorProto {
        let field = |(number, name): (i32, &&str)| FieldDescriptorProto {
            name: Some((*name).to_owned()),
            number: Some(number + 1),
            label: Some(1),
            r#type: Some(9),
            ..Default::default()
        };
        DescriptorProto {
            name: Some(name.to_owned()),
            field: (0..).zip(fields).map(field).collect(),
            ..Default::default()
        }
    }

    fn method(name: &str, input: &str, output: &str) -> MethodDescriptorProto {
        MethodDescriptorProto {
            name: Some(name.to_owned()),
            input_type: Some(format!(".mirror.x.v1.{input}")),
            output_type: Some(format!(".mirror.x.v1.{output}")),
            ..Default::default()
        }
    }

    /// A file that breaks each law once; only the message `GetRequest` has a comment.
    fn bad() -> DescriptorPool {
        let file = FileDescriptorProto {
            name: Some("mirror/x/v1/y.proto".to_owned()),
            package: Some("mirror.x.v1".to_owned()),
            syntax: Some("proto3".to_owned()),
            message_type: vec![message("GetRequest", &["badName"]), message("Shared", &[])],
            enum_type: vec![EnumDescriptorProto {
                name: Some("PartKind".to_owned()),
                value: vec![
                    EnumValueDescriptorProto { name: Some("NONE".into()), number: Some(0), options: None },
                    EnumValueDescriptorProto { name: Some("SOME".into()), number: Some(1), options: None },
                ],
                ..Default::default()
            }],
            service: vec![ServiceDescriptorProto {
                name: Some("Other".to_owned()),
                method: vec![method("Get", "GetRequest", "Shared")],
                options: None,
            }],
            source_code_info: Some(SourceCodeInfo {
                location: vec![Location {
                    path: vec![4, 0],
                    leading_comments: Some(" Asks.\n".to_owned()),
                    ..Default::default()
                }],
            }),
            ..Default::default()
        };
        DescriptorPool::from_file_descriptor_set(FileDescriptorSet { file: vec![file] }).unwrap()
    }

    #[test]
    fn each_broken_law_is_named() {
        let text = problems(&bad()).join("\n");
        for part in [
            "the service of mirror/x/v1/y.proto is YService",
            "mirror.x.v1.Other: has no comment",
            "mirror.x.v1.Other.Get: has no comment",
            "takes or returns mirror.x.v1.Shared, not mirror.x.v1.GetResponse",
            "badName: is not snake_case",
            "badName: has no comment",
            "mirror.x.v1.Shared: has no comment",
            "zero must be PART_KIND_UNSPECIFIED",
            "SOME: must begin with PART_KIND_",
        ] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
        assert!(!text.contains("GetRequest: has no comment"), "{text}");
    }

    #[test]
    fn a_file_stands_in_the_folder_of_its_package() {
        let file = FileDescriptorProto {
            name: Some("mirror/y/v1/x.proto".to_owned()),
            package: Some("mirror.x.v1".to_owned()),
            ..Default::default()
        };
        let pool = DescriptorPool::from_file_descriptor_set(FileDescriptorSet { file: vec![file] }).unwrap();
        let named = "mirror/y/v1/x.proto: package mirror.x.v1 must stand in mirror/x/v1/";
        assert_eq!(problems(&pool), [named]);
    }

    #[test]
    fn names_are_derived() {
        assert_eq!(pascal("vault_indexer"), "VaultIndexer");
        assert_eq!(pascal("vault-indexer"), "VaultIndexer");
        assert_eq!(shout("PayloadType"), "PAYLOAD_TYPE");
    }
}
