//! notify: tells the owner, by one card a subject: in the log always, on the desktop and by ntfy where that is set up.
//!
//! It refuses cards beyond their bounds, and a change that the bus did not record. What a channel cannot take waits and
//! is tried again for a day; that keeps no caller waiting and ends no process.
//! Invariant: the cards, and what each channel did with them, are a fold over the events under `notify`; deleted, they
//! are rebuilt to the same.
//!
//! Events, all with JSON payloads: `notify.card` is a card as it was put, `notify.cleared` ends one; both name its
//! subject. `notify.delivered` says what the channels did with the card of a position (`of`), once for all that took it
//! at the same time, and `notify.retracted` that an ntfy server was asked to take a cleared card back. A card costs one
//! event where only the log is a channel, two where others are; waiting and trying again costs none.
//!
//! The ntfy token lies in `keys/ntfy.token` (mode 0600) and nowhere else; it and the topic, which is a password too,
//! are in no event, log line or state.

mod api;
mod config;
mod courier;
mod desktop;
mod error;
mod follow;
mod health;
mod notify;
mod ntfy;
mod plan;
mod quiet;
mod record;
mod store;
mod wire;

#[doc(hidden)]
pub use wire::fuzz_wire;

use std::sync::Arc;

use mirror_contract::mirror::notify::v1::notify_service_server::NotifyServiceServer;
use mirror_kit::fold::{self as folds, FOLD_SERVICE};
use mirror_kit::{Away, Built, Context, Decl, Need, Primitive, Service, StartError};
use tokio::sync::watch;

/// The declaration.
pub const DECL: Decl = Decl {
    name: "notify",
    summary: "Tells the owner: one card per subject, by ntfy, on the desktop or in the log.",
    primitive: Primitive::Observation,
    tier: 1,
    needs: &[Need { service: "bus", away: Away::Hold }],
    serves: &["mirror.notify.v1.NotifyService", FOLD_SERVICE],
    subjects: &["notify"],
    reasons: error::REASONS,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(async move { build(&cx) }) };

fn build(cx: &Context) -> Result<Built, StartError> {
    let settings = cx.config::<config::Config>()?.checked()?;
    let (channel, _) = cx.client("bus")?;
    let store = store::Store::at(&cx.state_dir()?, cx.node().origin.as_str());
    let fold = watch::Sender::new(store.load());
    let health = health::Health::new(cx.state().clone());
    let recorder = record::Recorder::new(channel.clone(), settings.hold);
    let ntfy = settings.ntfy.map(|place| ntfy::Ntfy::new(place, cx.home(), cx.node().origin.as_str()));
    let desktop = if settings.desktop { desktop::Desktop::find(&health) } else { None };
    let board = courier::Board::new(desktop.is_some(), ntfy.is_some());
    let courier =
        courier::Courier::new(cx, fold.subscribe(), recorder.clone(), health.clone(), board.clone()).with(
            settings.quiet,
            desktop,
            ntfy,
        );
    let standing = Arc::new(store::Standing { fold: fold.clone(), store: store.clone() });
    let standing = folds::server(cx, channel.clone(), standing);
    cx.tasks().spawn(follow::Reader::new(cx, channel, fold.clone(), store.clone(), health).run());
    cx.tasks().spawn(courier.run());
    let api = api::Api::new(fold.clone(), recorder, board, cx.clock(), settings.quiet, settings.cards);
    Ok(Built::new()
        .serve(NotifyServiceServer::new(api))
        .serve(standing)
        .on_drain(move || store.save(fold.borrow().clone())))
}
