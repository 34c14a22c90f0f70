//! The gRPC methods: parse, call, render.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::tz::TimeZone;
use mirror_clock::Clock;
use mirror_contract::mirror::notify::v1 as pb;
use mirror_contract::mirror::notify::v1::notify_service_server::NotifyService;
use mirror_contract::timestamp;
use mirror_errors::reject;
use mirror_kit::{Peer, Principal};
use tokio::sync::{Mutex, watch};
use tonic::{Request, Response, Status};

use crate::courier::Board;
use crate::error::Error;
use crate::notify::{Change, Cleared, Put};
use crate::quiet::Quiet;
use crate::record::{Event, Recorder};
use crate::store::Fold;
use crate::wire;

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    fold: watch::Sender<Fold>,
    recorder: Recorder,
    board: Board,
    clock: Arc<dyn Clock>,
    quiet: Option<Quiet>,
    limit: usize,
    // Changes take turns, so that the limit holds and a repeated put is seen as one.
    turn: Mutex<()>,
}

impl Api {
    pub(crate) fn new(
        fold: watch::Sender<Fold>,
        recorder: Recorder,
        board: Board,
        clock: Arc<dyn Clock>,
        quiet: Option<Quiet>,
        limit: usize,
    ) -> Self {
        Self { fold, recorder, board, clock, quiet, limit, turn: Mutex::new(()) }
    }

    /// Appends a change and waits until the fold has it.
    async fn record(&self, change: &Change) -> Result<(), Error> {
        let seq = self.recorder.record(&Event::of(change)?).await?;
        let mut fold = self.fold.subscribe();
        fold.wait_for(|fold| fold.place.upto >= seq).await.map_err(|e| Error::not_recorded(&e))?;
        Ok(())
    }

    async fn put(&self, put: Put) -> Result<bool, Error> {
        let _turn = self.turn.lock().await;
        let is_news = self.fold.borrow().cards.is_news(&put, self.limit)?;
        if is_news {
            self.record(&Change::Put(put)).await?;
        }
        Ok(is_news)
    }

    async fn clear(&self, subject: String) -> Result<bool, Error> {
        let _turn = self.turn.lock().await;
        let is_shown = self.fold.borrow().cards.get(&subject).is_some();
        if is_shown {
            self.record(&Change::Cleared(Cleared { subject })).await?;
        }
        Ok(is_shown)
    }
}

#[tonic::async_trait]
impl NotifyService for Api {
    async fn put_card(
        &self,
        request: Request<pb::PutCardRequest>,
    ) -> Result<Response<pb::PutCardResponse>, Status> {
        let peer = request.extensions().get::<Peer>();
        let by = peer.map_or(Principal::Local, |peer| peer.principal.clone()).actor();
        let (subject, content) = wire::card(request.into_inner().card).map_err(reject)?;
        let changed = self.put(Put { subject, content, by }).await.map_err(reject)?;
        Ok(Response::new(pb::PutCardResponse { changed }))
    }

    async fn delete_card(
        &self,
        request: Request<pb::DeleteCardRequest>,
    ) -> Result<Response<pb::DeleteCardResponse>, Status> {
        let subject = wire::subject(request.into_inner().subject).map_err(reject)?;
        let deleted = self.clear(subject).await.map_err(reject)?;
        Ok(Response::new(pb::DeleteCardResponse { deleted }))
    }

    async fn list_cards(
        &self,
        _: Request<pb::ListCardsRequest>,
    ) -> Result<Response<pb::ListCardsResponse>, Status> {
        let fold = self.fold.borrow().clone();
        let mut cards: Vec<_> = fold.cards.iter().collect();
        cards.sort_by_key(|(_, card)| Reverse(card.seq));
        let shown = cards
            .into_iter()
            .map(|(subject, card)| wire::shown(subject, card, self.board.standings(subject, card)));
        let quiet = self.quiet.and_then(|quiet| quiet.until(self.clock.wall_ms(), &TimeZone::system()));
        Ok(Response::new(pb::ListCardsResponse { cards: shown.collect(), quiet_until: quiet.map(timestamp) }))
    }
}
