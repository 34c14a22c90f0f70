//! A test agent: a service without methods of its own that does what it is told.

use std::io::Write as _;
use std::time::Duration;

use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::kit::v1::get_state_response::State as Wire;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_kit::{Built, Context, StartError, State};

use crate::order::{self, Order};

const LOOK: Duration = Duration::from_millis(200);
const MIB: usize = 1 << 20;

/// The most that one process writes of a flood, in MiB.
const FLOOD_LIMIT_MIB: u64 = 1024;

pub(crate) async fn build(cx: Context) -> Result<Built, StartError> {
    let name = cx.decl().name;
    match order::read(cx.home(), name) {
        Some(Order::ExitAtStart(code)) => end(code),
        Some(Order::SlowStart(ms)) => cx.clock().sleep(Duration::from_millis(ms)).await,
        Some(Order::BadConfig) => {
            return Err(StartError::NotServing("mirror.toml, line 1: a drill's wrong value".to_owned()));
        }
        _ => {}
    }
    let follower = cx.clone();
    cx.tasks().spawn(async move { obey(&follower).await });
    for need in cx.decl().needs {
        let (channel, _) = cx.client(need.service)?;
        let (cx, peer) = (cx.clone(), need.service);
        cx.tasks().clone().spawn(async move { depend(&cx, peer, KitServiceClient::new(channel)).await });
    }
    Ok(Built::new())
}

/// Ends the process where it stands, as a bug would.
#[expect(clippy::disallowed_methods, reason = "a drill ends in ways that the kit would not choose")]
fn end(code: i32) -> ! {
    std::process::exit(code)
}

/// Does not serve while the peer does not.
async fn depend(cx: &Context, peer: &str, mut kit: KitServiceClient<mirror_kit::Channel>) {
    loop {
        let asked = tokio::time::timeout(Duration::from_secs(1), kit.get_state(GetStateRequest {})).await;
        let serves = matches!(&asked, Ok(Ok(answer)) if answer.get_ref().state() == Wire::Serving);
        if serves {
            cx.state().set(State::Serving, "");
        } else {
            cx.state().set(State::NotServing, format!("{peer} is away"));
        }
        if !cx.shutdown().sleep(cx.clock().as_ref(), Duration::from_millis(500)).await {
            return;
        }
    }
}

async fn obey(cx: &Context) {
    let name = cx.decl().name;
    let clock = cx.clock();
    let started = clock.boot();
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut files = Vec::new();
    let mut silent = false;
    let mut flooded = 0;
    while cx.shutdown().sleep(clock.as_ref(), LOOK).await {
        let Some(order) = order::read(cx.home(), name) else {
            if std::mem::take(&mut silent) {
                cx.state().set(State::Serving, "");
            }
            continue;
        };
        if order.is_once() {
            order::clear(cx.home(), name);
        }
        match order {
            Order::Exit(code) => end(code),
            Order::ExitAfter(code, ms) => {
                if clock.boot().saturating_sub(started) >= Duration::from_millis(ms) {
                    end(code);
                }
            }
            Order::Abort => std::process::abort(),
            // The executor has one thread: nothing in this process runs again.
            Order::Hang => loop {
                std::thread::park();
            },
            Order::NotServing => {
                silent = true;
                cx.state().set(State::NotServing, "a drill");
            }
            Order::Memory(mib) => {
                let mib = usize::try_from(mib).unwrap_or(0);
                // Written, so that it is memory and not only a promise of it.
                held.extend((0..mib).map(|_| vec![1; MIB]));
                tracing::info!(mib, blocks = held.len(), "took memory");
            }
            // Never more than a test's disk can bear.
            Order::Flood(mib) if flooded + mib > FLOOD_LIMIT_MIB => {}
            Order::Flood(mib) => {
                flooded += mib.div_ceil(5);
                let line = [b'x'; 1023];
                let mut out = std::io::stderr().lock();
                for _ in 0..mib * 1024 / 5 {
                    // Nobody may be reading.
                    let _ = out.write_all(&line).and_then(|()| out.write_all(b"\n"));
                }
            }
            Order::Files => {
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    files.push(file);
                }
                tracing::info!(files = files.len(), "no more files");
            }
            Order::ExitAtStart(_) | Order::SlowStart(_) | Order::BadConfig => {}
        }
    }
}
