// No validatorUrl: Swagger's default sends the address of the description to a server of its makers.
"use strict";

SwaggerUIBundle({ url: "docs.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
