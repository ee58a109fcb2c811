//! `GET /v1/watch`: a stream of events, one JSON object a line.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt as _};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use super::App;
use crate::model::Event;

pub(super) async fn watch(State(app): State<App>) -> Response {
    let lines = events(app).await.map(|event| {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(line))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// Hello, what is, then what happens, until the daemon stops.
async fn events(app: App) -> impl Stream<Item = Event> {
    // Subscribed before reading, so that nothing is missed; some of it may come twice.
    let news = BroadcastStream::new(app.controller.watch());
    let mut present = vec![Event::Hello { revision: app.controller.revision() }];
    present.extend(app.controller.bridges().await.into_iter().map(|b| Event::Bridge(Box::new(b))));
    present.extend(app.controller.meshes().await.into_iter().map(|m| Event::Mesh(Box::new(m))));
    present.extend(app.controller.ports().await.into_iter().map(|p| Event::Port(Box::new(p))));
    present.extend(app.controller.gateways().await.into_iter().map(|g| Event::Gateway(Box::new(g))));
    present.extend(app.controller.uplinks().await.into_iter().map(|u| Event::Uplink(Box::new(u))));
    let news = news.map(|item| match item {
        Ok(event) => event,
        Err(BroadcastStreamRecvError::Lagged(missed)) => Event::Lagged { missed },
    });
    let mut stopping = app.stopping;
    let end = async move {
        // An error means that the server is gone.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    stream::iter(present).chain(news).take_until(Box::pin(end))
}
