//! A service in a process that has other things to do too: the supervisor in `mirror up`.

use std::io;
use std::sync::Arc;

use mirror_errors::Chain;

use crate::context::Shutdown;
use crate::decl::Service;
use crate::lease::Lease;
use crate::listener::{Bound, Incoming};
use crate::logs::{self, RollingFile};
use crate::run::{Env, Exit, serve_leased};

/// Serves a service on its socket, with its lease and its log, until it is told to stop.
///
/// The process writes its own fleet row, and what it logs goes to the service's log. Nobody may read its memory.
pub async fn serve_here(env: Env, service: &'static Service, shutdown: Shutdown) -> Exit {
    let name = service.decl.name;
    let begun = begin(&env, name);
    let (lease, bound) = match begun {
        Ok(begun) => begun,
        Err(why) => return Exit::Failed(why),
    };
    let lease = Arc::new(lease);
    let incoming = Incoming::new(bound, env.home.clone(), name, Arc::clone(&lease));
    serve_leased(env, service, incoming, shutdown, Some(lease)).await
}

fn begin(env: &Env, name: &str) -> Result<(Lease, Bound), String> {
    let failed = |e: &dyn std::error::Error| Chain(e).to_string();
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false).map_err(|e| failed(&e))?;
    let log = RollingFile::open(env.home.log().join(format!("{name}.log"))).map_err(|e| failed(&e))?;
    logs::install(log);
    let lease = Lease::take(&env.home, name).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => "another process serves this home already".to_owned(),
        _ => failed(&e),
    })?;
    let bound = Bound::bind(&env.home, name).map_err(|e| failed(&e))?;
    Ok((lease, bound))
}
