// A test of `/healthz` from three regions every five minutes, and an alert when it fails from two of them.

@description('Resource id of the Application Insights component.')
param componentId string

@description('Resource id of the action group that the alert is sent to.')
param actionGroupId string

@description('Azure region.')
param location string

@description('Tags of every resource.')
param tags object

@description('Name of the test and of the alert rule.')
param name string

@description('Address of the gateway.')
param url string

var places = ['emea-nl-ams-azr', 'us-va-ash-azr', 'apac-sg-sin-azr']

resource test 'Microsoft.Insights/webtests@2022-06-15' = {
  name: name
  location: location
  tags: union(tags, { 'hidden-link:${componentId}': 'Resource' })
  kind: 'standard'
  properties: {
    SyntheticMonitorId: name
    Name: name
    Enabled: true
    Frequency: 300
    Timeout: 30
    Kind: 'standard'
    RetryEnabled: true
    Locations: map(places, place => { Id: place })
    Request: {
      RequestUrl: '${url}/healthz'
      HttpVerb: 'GET'
      ParseDependentRequests: false
    }
    ValidationRules: {
      ExpectedHttpStatusCode: 200
      SSLCheck: true
      SSLCertRemainingLifetimeCheck: 7
    }
  }
}

resource alert 'Microsoft.Insights/metricAlerts@2026-01-01' = {
  name: name
  location: 'global'
  tags: tags
  properties: {
    description: 'GET /healthz failed from two regions or more: the gateway is down, or cannot be reached. See docs/troubleshoot.md.'
    severity: 0
    enabled: true
    scopes: [test.id, componentId]
    evaluationFrequency: 'PT1M'
    windowSize: 'PT5M'
    autoMitigate: true
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.WebtestLocationAvailabilityCriteria'
      webTestId: test.id
      componentId: componentId
      failedLocationCount: 2
    }
    actions: [
      {
        actionGroupId: actionGroupId
      }
    ]
  }
}
