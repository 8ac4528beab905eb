// Swagger's page of the API, at `/docs`.
"use strict";

// A file is easier to choose than to write in base64, and Swagger shows the form that comes first.
function formsFirst(text) {
  const description = JSON.parse(text);
  for (const { post } of Object.values(description.paths)) {
    const content = post?.requestBody?.content;
    const form = content?.["multipart/form-data"];
    if (form) post.requestBody.content = { "multipart/form-data": form, ...content };
  }
  return JSON.stringify(description);
}

SwaggerUIBundle({
  url: "docs.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // the default sends the address of the description to a server of Swagger's makers
  responseInterceptor: (response) => {
    if (new URL(response.url).pathname.endsWith("/docs.json")) response.text = formsFirst(response.text);
    return response;
  },
});
