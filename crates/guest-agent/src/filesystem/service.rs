//! The calls of `filesystem.Filesystem`.

use hyper::{Request, body::Incoming};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    operations,
    watch::{Watch, WatchRequest},
    watchers,
};
use crate::{
    agent::Shared, as_user, auth, connect, error::Result, http::Answer, paths,
    process::messages::number, user::User,
};

#[derive(Deserialize)]
struct PathRequest {
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct MoveRequest {
    #[serde(default)]
    source: String,
    #[serde(default)]
    destination: String,
}

#[derive(Deserialize)]
struct ListRequest {
    #[serde(default)]
    path: String,
    #[serde(default, deserialize_with = "number")]
    depth: u64,
}

#[derive(Deserialize)]
struct WatcherRequest {
    #[serde(default, rename = "watcherId", alias = "watcher_id")]
    watcher_id: String,
}

/// Answers one call by its method's name; `None` when there is no such method.
pub async fn call(agent: &Shared, method: &str, request: Request<Incoming>) -> Option<Answer> {
    Some(match method {
        "Stat" => connect::unary(stat(agent, request).await),
        "MakeDir" => connect::unary(make_dir(agent, request).await),
        "Move" => connect::unary(rename(agent, request).await),
        "ListDir" => connect::unary(list(agent, request).await),
        "Remove" => connect::unary(remove(agent, request).await),
        "WatchDir" => match watch(agent, request).await {
            Ok(answer) => answer,
            Err(error) => connect::short_stream(Err(error)),
        },
        "CreateWatcher" => connect::unary(create_watcher(agent, request).await),
        "GetWatcherEvents" => connect::unary(watcher_events(agent, request).await),
        "RemoveWatcher" => connect::unary(remove_watcher(agent, request).await),
        _ => return None,
    })
}

/// Whether a method's messages come in a stream's envelopes.
pub fn is_stream(method: &str) -> bool {
    method == "WatchDir"
}

/// The message, its user, and the paths in it made absolute.
async fn read<T: DeserializeOwned>(
    agent: &Shared,
    request: Request<Incoming>,
) -> Result<(T, User)> {
    let user = auth::user(agent, &request)?;
    Ok((connect::read_unary(request).await?, user))
}

fn resolve(agent: &Shared, path: &str, user: &User) -> Result<String> {
    paths::resolve(path, user, agent.settings.borrow().base(user))
}

async fn stat(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let (message, user) = read::<PathRequest>(agent, request).await?;
    let path = resolve(agent, &message.path, &user)?;
    let entry = as_user::run(&user, move || operations::stat(&path)).await?;
    Ok(json!({ "entry": entry }))
}

async fn make_dir(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let (message, user) = read::<PathRequest>(agent, request).await?;
    let path = resolve(agent, &message.path, &user)?;
    let entry = as_user::run(&user, move || operations::make_dir(&path)).await?;
    Ok(json!({ "entry": entry }))
}

async fn rename(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let (message, user) = read::<MoveRequest>(agent, request).await?;
    let source = resolve(agent, &message.source, &user)?;
    let destination = resolve(agent, &message.destination, &user)?;
    let entry = as_user::run(&user, move || operations::rename(&source, &destination)).await?;
    Ok(json!({ "entry": entry }))
}

async fn list(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let (message, user) = read::<ListRequest>(agent, request).await?;
    let path = resolve(agent, &message.path, &user)?;
    let entries = as_user::run(&user, move || operations::list(&path, message.depth)).await?;
    Ok(json!({ "entries": entries }))
}

async fn remove(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let (message, user) = read::<PathRequest>(agent, request).await?;
    let path = resolve(agent, &message.path, &user)?;
    as_user::run(&user, move || operations::remove(&path)).await?;
    Ok(json!({}))
}

async fn watch(agent: &Shared, request: Request<Incoming>) -> Result<Answer> {
    let user = auth::user(agent, &request)?;
    let until = connect::timeout(&request)?.map(|timeout| Instant::now() + timeout);
    let keepalive = connect::keepalive(&request);
    let message: WatchRequest = connect::read_one(request).await?;
    let place = agent.watchers.reserve()?;
    let path = resolve(agent, &message.path, &user)?;
    let watch = Watch::open(path, &message, user).await?;
    Ok(connect::stream(watchers::follow(
        watch, place, keepalive, until,
    )))
}

async fn create_watcher(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let (message, user) = read::<WatchRequest>(agent, request).await?;
    let place = agent.watchers.reserve()?;
    let path = resolve(agent, &message.path, &user)?;
    let watch = Watch::open(path, &message, user).await?;
    Ok(json!({ "watcherId": agent.watchers.add(watch, place) }))
}

async fn watcher_events(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let message: WatcherRequest = connect::read_unary(request).await?;
    let events = agent.watchers.take(&message.watcher_id).await?;
    Ok(json!({ "events": events }))
}

async fn remove_watcher(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let message: WatcherRequest = connect::read_unary(request).await?;
    agent.watchers.remove(&message.watcher_id)?;
    Ok(json!({}))
}
