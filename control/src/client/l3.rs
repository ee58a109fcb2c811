//! Gateways, uplinks, routes, NAT rules and connections.

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Client, segment};
use crate::Result;
use crate::model::attach::{Attach, AttachmentStatus};
use crate::model::docker::DockerStatus;
use crate::model::l3::{
    CtCount, CtFilter, CtRow, CtSpec, GatewaySpec, GatewayStatus, LeaseRow, NatSpec, NatStatus, NeighbourRow,
    RouteSpec, RouteStatus, UplinkSpec, UplinkStatus,
};

/// A kind of object that the API has by name.
pub trait Collection: Serialize {
    /// What is told of one.
    type Status: DeserializeOwned;
    /// Where they are.
    const PATH: &'static str;
}

macro_rules! collections {
    ($($spec:ty, $status:ty, $path:literal;)*) => {$(
        impl Collection for $spec {
            type Status = $status;
            const PATH: &'static str = $path;
        }
    )*};
}
collections! {
    GatewaySpec, GatewayStatus, "/v1/gateways";
    UplinkSpec, UplinkStatus, "/v1/uplinks";
    RouteSpec, RouteStatus, "/v1/routes";
    NatSpec, NatStatus, "/v1/nat";
}

fn one<T: Collection>(name: &str) -> String {
    format!("{}/{}", T::PATH, segment(name))
}

impl Client {
    /// `GET /v1/attachments`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn attachments(&self) -> Result<Vec<AttachmentStatus>> {
        self.get("/v1/attachments").await
    }

    /// `POST /v1/attachments`: a container's interface in a network, or nothing of it.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn attach(&self, asked: &Attach) -> Result<AttachmentStatus> {
        self.send(Method::POST, "/v1/attachments", asked).await
    }

    /// `GET /v1/attachments/{id}`, with what the interface is like now.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn attachment(&self, id: &str) -> Result<AttachmentStatus> {
        self.get(&format!("/v1/attachments/{}", segment(id))).await
    }

    /// `DELETE /v1/attachments/{id}`; one that is not there is no error.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn detach(&self, id: &str) -> Result<()> {
        self.delete(&format!("/v1/attachments/{}", segment(id))).await
    }

    /// `GET /v1/docker`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn docker(&self) -> Result<DockerStatus> {
        self.get("/v1/docker").await
    }

    /// `PUT /v1/docker`: serves docker, at that path or where docker looks.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn enable_docker(&self, socket: Option<&str>) -> Result<DockerStatus> {
        self.send(Method::PUT, "/v1/docker", &json!({ "socket": socket })).await
    }

    /// `DELETE /v1/docker`: serves docker no more; what it made stays.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn disable_docker(&self) -> Result<()> {
        self.delete("/v1/docker").await
    }

    /// `GET` of all objects of a kind.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn list<T: Collection>(&self) -> Result<Vec<T::Status>> {
        self.get(T::PATH).await
    }

    /// `GET` of one.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn show<T: Collection>(&self, name: &str) -> Result<T::Status> {
        self.get(&one::<T>(name)).await
    }

    /// `POST`: makes one. Routes and NAT rules get a name if they have none.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn add<T: Collection>(&self, name: Option<&str>, spec: &T) -> Result<T::Status> {
        self.send(Method::POST, T::PATH, &json!({ "name": name, "spec": spec })).await
    }

    /// `PATCH`: changes the keys that the merge patch names, null takes one away.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn patch<T: Collection>(&self, name: &str, patch: &Value) -> Result<T::Status> {
        self.send(Method::PATCH, &one::<T>(name), patch).await
    }

    /// `DELETE`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn del<T: Collection>(&self, name: &str) -> Result<()> {
        self.delete(&one::<T>(name)).await
    }

    /// `GET /v1/ct`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn connections(&self, filter: &CtFilter) -> Result<Vec<CtRow>> {
        self.get(&format!("/v1/ct?{}", query(filter))).await
    }

    /// `GET /v1/ct/count`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn count_connections(&self, filter: &CtFilter) -> Result<CtCount> {
        self.get(&format!("/v1/ct/count?{}", query(filter))).await
    }

    /// `POST /v1/ct/flush`: how many were removed.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn flush_connections(&self, filter: &CtFilter) -> Result<u64> {
        let answer: Value = self.send(Method::POST, "/v1/ct/flush", filter).await?;
        answer["flushed"].as_u64().ok_or_else(|| self.strange(&"'flushed' is missing"))
    }

    /// `GET /v1/ct/settings`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn ct_settings(&self) -> Result<CtSpec> {
        self.get("/v1/ct/settings").await
    }

    /// `PATCH /v1/ct/settings`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn patch_ct_settings(&self, patch: &Value) -> Result<CtSpec> {
        self.send(Method::PATCH, "/v1/ct/settings", patch).await
    }

    /// `GET /v1/neighbours`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn neighbours(&self) -> Result<Vec<NeighbourRow>> {
        self.get("/v1/neighbours").await
    }

    /// `GET /v1/leases`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn leases(&self) -> Result<Vec<LeaseRow>> {
        self.get("/v1/leases").await
    }
}

/// A filter as a query string.
fn query(filter: &CtFilter) -> String {
    let value = serde_json::to_value(filter).unwrap_or_default();
    let pairs = value.as_object().into_iter().flatten().map(|(key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{key}={}", segment(&text))
    });
    pairs.collect::<Vec<_>>().join("&")
}
