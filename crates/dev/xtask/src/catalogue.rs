//! The catalogue: every service of the binary `mirror`.

use mirror_kit::Decl;

/// Returns the declarations of all services, in order of name.
pub fn all() -> Vec<&'static Decl> {
    Vec::new()
}
